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
    store_kv_row(block.x, t, FINAL);
}
