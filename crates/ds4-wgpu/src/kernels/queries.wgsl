// Queries: RMSNorm without weight and rotation of each head; then, in layers with an indexer, its queries (see
// `index_query_head.wgsl`). STORE: every row is a sequence's only one, and enters its slot here: the KV row takes the place in the
// window ring of one that this row does not see, the features move the frontiers on, which `compress.wgsl` has read before.
// grid: (heads and indexer heads, with STORE one more and WG channels each of the compressors; rows).

struct Params {
    kind: u32,
    kinds: u32,
    eps: f32,
    /// Where the scales of the indexer's codes begin among them.
    scales_at: u32,
    index_heads: u32,
    /// Where the stored KV rows begin among the projections.
    kv_stored: u32,
    slot_words: u32,
    window: u32,
    /// Workgroups of the first compressor.
    blocks: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
    first: Compressor,
    second: Compressor,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> query: array<f32>;
@group(0) @binding(3) var<storage, read_write> index_query: array<f32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read> vectors: array<f32>;
@group(0) @binding(6) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> projected: array<u32>;
@group(0) @binding(8) var<storage, read_write> slots: array<u32>;

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

/// Stores a part of row `row`: 0 its KV row, then channels of the compressors.
fn store_part(row: u32, number: u32, t: u32) {
    let info = rows[row];
    if (number == 0u) {
        let to = info.w * p.slot_words + info.y % p.window * KV_WORDS;
        for (var i = t; i < KV_WORDS; i += WG) {
            slots[to + i] = projected[p.kv_stored + row * KV_WORDS + i];
        }
        return;
    }
    let span = Span(info.w, row, 1u, info.y, 0u);
    let block = number - 1u;
    if (block < p.blocks) {
        let d = block * WG + t;
        if (d < p.first.dim) {
            move_frontier(p.first, span, d);
        }
    } else {
        let d = (block - p.blocks) * WG + t;
        if (d < p.second.dim) {
            move_frontier(p.second, span, d);
        }
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (block.x < N_HEAD) {
        make_query(block.y, block.x, t);
    } else if (block.x - N_HEAD < p.index_heads) {
        make_index_query(block.y, block.x - N_HEAD, t, false);
    } else if (STORE) {
        store_part(block.y, block.x - N_HEAD - p.index_heads, t);
    }
}
