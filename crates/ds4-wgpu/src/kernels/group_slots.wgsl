// Tiles of slots that share an expert. `groups`: number of tiles, three words unused, a tile in each four words (expert, index of its
// first slot in `groups`, number of slots), then from `list` the slots by expert, in order. grid: (1).

struct Params {
    first_row: u32,
    rows: u32,
    list: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> groups: array<u32>;

const TILE: u32 = 8u;

var<workgroup> counts: array<u32, N_EXPERT>;
var<workgroup> first_slot: array<u32, N_EXPERT>;
var<workgroup> first_tile: array<u32, N_EXPERT>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32) {
    let n = p.rows * USED;
    let begin = p.first_row * USED;
    for (var e = t; e < N_EXPERT; e += WG) {
        var count = 0u;
        for (var i = 0u; i < n; i += 1u) {
            count += select(0u, 1u, ids[begin + i] == e);
        }
        counts[e] = count;
    }
    workgroupBarrier();
    if (t == 0u) {
        var slot = p.list;
        var tile = 0u;
        for (var e = 0u; e < N_EXPERT; e += 1u) {
            first_slot[e] = slot;
            first_tile[e] = tile;
            slot += counts[e];
            tile += (counts[e] + TILE - 1u) / TILE;
        }
        groups[0] = tile;
    }
    workgroupBarrier();
    for (var e = t; e < N_EXPERT; e += WG) {
        var at = first_slot[e];
        for (var i = 0u; i < n && at < first_slot[e] + counts[e]; i += 1u) {
            if (ids[begin + i] == e) {
                groups[at] = i / USED * (USED + 1u) + i % USED;
                at += 1u;
            }
        }
        for (var k = 0u; k * TILE < counts[e]; k += 1u) {
            let item = 4u + 4u * (first_tile[e] + k);
            groups[item] = e;
            groups[item + 1u] = first_slot[e] + k * TILE;
            groups[item + 2u] = min(TILE, counts[e] - k * TILE);
        }
    }
}
