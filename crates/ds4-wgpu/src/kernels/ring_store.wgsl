// The batch's KV rows into the window rings, after attention has read the rows that they replace. grid: (rows).

struct Params {
    slot_words: u32,
    window: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> kv_stored: array<u32>;
@group(0) @binding(4) var<storage, read_write> slots: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let info = rows[block.x];
    let span = info.z * 8u;
    let end = tables[span + 3u] + tables[span + 2u];
    if (info.y + p.window < end) {
        return;
    }
    let to = tables[span] * p.slot_words + info.y % p.window * KV_WORDS;
    for (var i = t; i < KV_WORDS; i += WG) {
        slots[to + i] = kv_stored[block.x * KV_WORDS + i];
    }
}
