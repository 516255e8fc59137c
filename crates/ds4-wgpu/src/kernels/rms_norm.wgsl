// RMSNorm with weight, in place. grid: (rows).

struct Params {
    cols: u32,
    weight: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = block.x * p.cols;
    var squares = 0.0;
    for (var i = t; i < p.cols; i += WG) {
        let v = x[at + i];
        squares = fma(v, v, squares);
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(p.cols) + p.eps);
    for (var i = t; i < p.cols; i += WG) {
        x[at + i] = x[at + i] * scale * vectors[p.weight + i];
    }
}
