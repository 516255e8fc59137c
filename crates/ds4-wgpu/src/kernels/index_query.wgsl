// The codes of indexer queries that are final. grid: (indexer heads, rows).

struct Params {
    kind: u32,
    kinds: u32,
    /// Where the codes' scales begin among them.
    scales_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> index_query: array<f32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    make_index_query(block.y, block.x, t, true);
}
