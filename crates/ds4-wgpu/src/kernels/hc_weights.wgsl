// The merging weights where no other kernel has made them. grid: (rows).

struct Params {
    hyper: Hyper,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read_write> merge: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    make_merge_weights(p.hyper, block.x, t);
}
