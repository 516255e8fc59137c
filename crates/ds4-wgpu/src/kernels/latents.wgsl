// What stands between the projections of the attention input and those of the queries: the first workgroup of a row makes its KV
// row (see `kv_store.wgsl`), the second the norm of its query latent, with INTEGERS as int8 as well; the third makes the merging weights
// (see `merge_weights.wgsl`). grid: (3, rows).

struct Params {
    norm: u32,
    kind: u32,
    kinds: u32,
    eps: f32,
    /// Weight of the latent's norm; its vectors of four.
    latent_norm: u32,
    quads: u32,
    pad0: u32,
    pad1: u32,
    hyper: Hyper,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> kv: array<f32>;
@group(0) @binding(4) var<storage, read_write> kv_stored: array<u32>;
@group(0) @binding(5) var<storage, read_write> latent: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> codes: array<u32>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;
@group(0) @binding(8) var<storage, read_write> merge: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (block.x == 0u) {
        store_kv_row(block.y, t, false);
        return;
    }
    if (block.x == 2u) {
        make_merge_weights(p.hyper, block.y, t);
        return;
    }
    let at = block.y * p.quads;
    var squares = 0.0;
    for (var i = t; i < p.quads; i += WG) {
        let v = latent[at + i];
        squares = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, squares))));
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(4u * p.quads) + p.eps);
    for (var first = 0u; first < p.quads; first += WG) {
        let i = min(first + t, p.quads - 1u);
        let norm = p.latent_norm + 4u * i;
        let weight = vec4<f32>(vectors[norm], vectors[norm + 1u], vectors[norm + 2u], vectors[norm + 3u]);
        let v = latent[at + i] * scale * weight;
        if (first + t < p.quads) {
            latent[at + i] = v;
        }
        if (INTEGERS) {
            let q = quantize_quad(v, t);
            if (first + t < p.quads) {
                codes[at + i] = q.codes;
                if (i % 8u == 0u) {
                    scales[(at + i) / 8u] = q.scale;
                }
            }
        }
    }
}
