// The batch's KV rows: norm, rotation, rounding; kept as float32 and as stored. With FINAL the rows are final already and are only
// stored. grid: (rows).

struct Params {
    norm: u32,
    kind: u32,
    kinds: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> kv: array<f32>;
@group(0) @binding(4) var<storage, read_write> kv_stored: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = block.x;
    for (var i = t; i < HEAD_DIM; i += WG) {
        row_values[i] = kv[row * HEAD_DIM + i];
    }
    if (!FINAL) {
        norm_and_rotate(t, HEAD_DIM, p.norm, (row * p.kinds + p.kind) * (ROPE / 2u), p.eps);
    }
    kv_scales(t);
    for (var i = t; i < KV_WORDS; i += WG) {
        let word = kv_word(i);
        kv_stored[row * KV_WORDS + i] = word;
        if (EXACT) {
            kv[row * HEAD_DIM + i] = bitcast<f32>(word);
        } else if (i < KV_CODES) {
            let v = e4m3_decode(word) * group_scales[i / 16u];
            let at = row * HEAD_DIM + 4u * i;
            kv[at] = v.x;
            kv[at + 1u] = v.y;
            kv[at + 2u] = v.z;
            kv[at + 3u] = v.w;
        } else if (i >= KV_CODES + KV_EXPONENTS) {
            let v = half_decode(word);
            let at = row * HEAD_DIM + NOPE + 2u * (i - KV_CODES - KV_EXPONENTS);
            kv[at] = v.x;
            kv[at + 1u] = v.y;
        }
    }
}
