// The batch enters the sequences' slots, after attention has read what it replaces: KV rows the window rings, features the
// frontiers (see `move_frontier.wgsl`). grid: (batch rows, then WG channels each of the compressors, spans); rings are stored with the first span.

struct Params {
    slot_words: u32,
    window: u32,
    rows: u32,
    /// Workgroups of the first compressor.
    blocks: u32,
    first: Compressor,
    second: Compressor,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;
@group(0) @binding(4) var<storage, read> kv_stored: array<u32>;
@group(0) @binding(5) var<storage, read> projected: array<u32>;
@group(0) @binding(6) var<storage, read_write> slots: array<u32>;

fn store_ring(row: u32, t: u32) {
    let info = rows[row];
    let span = info.z * 8u;
    let end = tables[span + 3u] + tables[span + 2u];
    if (info.y + p.window < end) {
        return;
    }
    let to = tables[span] * p.slot_words + info.y % p.window * KV_WORDS;
    for (var i = t; i < KV_WORDS; i += WG) {
        slots[to + i] = kv_stored[row * KV_WORDS + i];
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (block.x < p.rows) {
        if (block.y == 0u) {
            store_ring(block.x, t);
        }
        return;
    }
    let number = block.x - p.rows;
    if (number < p.blocks) {
        let d = number * WG + t;
        if (d < p.first.dim) {
            move_frontier(p.first, span_of(block.y), d);
        }
    } else {
        let d = (number - p.blocks) * WG + t;
        if (d < p.second.dim) {
            move_frontier(p.second, span_of(block.y), d);
        }
    }
}
