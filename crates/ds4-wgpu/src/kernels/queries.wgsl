// Queries: RMSNorm without weight and rotation of each head; then, in layers with an indexer, its queries (see
// `index_query_head.wgsl`). grid: (heads and indexer heads, rows).

struct Params {
    kind: u32,
    kinds: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> query: array<f32>;
@group(0) @binding(3) var<storage, read_write> index_query: array<f32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> code_scales: array<f32>;

fn make_query(row: u32, head: u32, t: u32) {
    let at = (row * N_HEAD + head) * HEAD_DIM;
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
            turn = angles[(row * p.kinds + p.kind) * (ROPE / 2u) + i - (HEAD_DIM - ROPE) / 2u];
        }
        query[at + 2u * i] = fma(a, turn.x, -(b * turn.y));
        query[at + 2u * i + 1u] = fma(a, turn.y, b * turn.x);
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (block.x < N_HEAD) {
        make_query(block.y, block.x, t);
    } else {
        make_index_query(block.y, block.x - N_HEAD, t, false);
    }
}
