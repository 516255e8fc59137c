// The TOP_K largest scores of each row, the lower index first among equals; indices in ascending order. Four passes narrow the
// smallest chosen key down, eight bits at a time. `selection`: per batch row the number of chosen rows (ALL where a row attends to
// all that it sees), then their indices. grid: (batch rows from first_row).

struct Params {
    first_row: u32,
    stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scores: array<f32>;
@group(0) @binding(3) var<storage, read_write> selection: array<u32>;

const ALL: u32 = 0xFFFFFFFFu;

var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> chosen_byte: u32;
var<workgroup> still_wanted: u32;
var<workgroup> sums: array<vec2<u32>, WG>;

/// The sums of `v` over the invocations up to this one.
fn running_sum(v: vec2<u32>, t: u32) -> vec2<u32> {
    var sum = v;
    workgroupBarrier();
    sums[t] = sum;
    for (var step = 1u; step < WG; step *= 2u) {
        workgroupBarrier();
        var before = vec2<u32>();
        if (t >= step) {
            before = sums[t - step];
        }
        workgroupBarrier();
        sum += before;
        sums[t] = sum;
    }
    return sum;
}

/// Unsigned integers that order like the scores, NaN included; the two zeros are one.
fn key_of(score: f32) -> u32 {
    let bits = bitcast<u32>(score + 0.0);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = p.first_row + block.x;
    let visible = (rows[row].y + 1u) / RATIO;
    let out = row * (TOP_K + 1u);
    if (visible <= TOP_K) {
        if (t == 0u) {
            selection[out] = ALL;
        }
        return;
    }
    let begin = block.x * p.stride;
    var prefix = 0u;
    var mask = 0u;
    var wanted = TOP_K;
    for (var pass_number = 0u; pass_number < 4u; pass_number += 1u) {
        let shift = 24u - 8u * pass_number;
        for (var i = t; i < 256u; i += WG) {
            atomicStore(&counts[i], 0u);
        }
        workgroupBarrier();
        for (var i = t; i < visible; i += WG) {
            let key = key_of(scores[begin + i]);
            if ((key & mask) == prefix) {
                atomicAdd(&counts[(key >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        // The largest byte that, with those above it, has as many keys as are wanted. WG is the number of bytes.
        let byte = WG - 1u - t;
        let n = atomicLoad(&counts[byte]);
        let from_here = running_sum(vec2<u32>(n, 0u), t).x;
        if (from_here >= wanted && from_here - n < wanted) {
            chosen_byte = byte;
            still_wanted = wanted - (from_here - n);
        }
        workgroupBarrier();
        prefix |= chosen_byte << shift;
        mask |= 255u << shift;
        wanted = still_wanted;
        workgroupBarrier();
    }
    // All keys above `prefix`, and the first `wanted` of those equal to it. Every invocation takes a run of neighbours.
    let run = (visible + WG - 1u) / WG;
    let first = min(t * run, visible);
    let last = min(first + run, visible);
    var mine_above = 0u;
    var mine_equal = 0u;
    for (var i = first; i < last; i += 1u) {
        let key = key_of(scores[begin + i]);
        mine_above += select(0u, 1u, key > prefix);
        mine_equal += select(0u, 1u, key == prefix);
    }
    let mine = vec2<u32>(mine_above, mine_equal);
    let before = running_sum(mine, t) - mine;
    var before_equal = before.y;
    var place = before.x + min(before_equal, wanted);
    for (var i = first; i < last; i += 1u) {
        let key = key_of(scores[begin + i]);
        var take = key > prefix;
        if (key == prefix) {
            take = before_equal < wanted;
            before_equal += 1u;
        }
        if (take) {
            selection[out + 1u + place] = i;
            place += 1u;
        }
    }
    if (t == 0u) {
        selection[out] = TOP_K;
    }
}
