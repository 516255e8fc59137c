// Query heads: RMSNorm without weight, rotation. grid: (heads, rows).

struct Params {
    kind: u32,
    kinds: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> query: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = (block.y * N_HEAD + block.x) * HEAD_DIM;
    var squares = 0.0;
    for (var i = t; i < HEAD_DIM / 2u; i += WG) {
        let a = query[at + 2u * i];
        let b = query[at + 2u * i + 1u];
        squares = fma(b, b, fma(a, a, squares));
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(HEAD_DIM) + p.eps);
    for (var i = t; i < HEAD_DIM / 2u; i += WG) {
        let a = query[at + 2u * i] * scale;
        let b = query[at + 2u * i + 1u] * scale;
        var turn = vec2<f32>(1.0, 0.0);
        if (2u * i >= HEAD_DIM - ROPE) {
            turn = angles[(block.y * p.kinds + p.kind) * (ROPE / 2u) + i - (HEAD_DIM - ROPE) / 2u];
        }
        query[at + 2u * i] = fma(a, turn.x, -(b * turn.y));
        query[at + 2u * i + 1u] = fma(a, turn.y, b * turn.x);
    }
}
