// Whether neighbouring invocations are neighbours in their subgroup, which the exchange of `lanes_subgroup.wgsl` relies on.

@group(0) @binding(1) var<storage, read_write> found: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) block: vec3<u32>) {
    var right = true;
    for (var step = 1u; step < SPAN; step *= 2u) {
        right = right && subgroupShuffleXor(t, step) == (t ^ step);
    }
    found[block.x * WG + t] = select(0u, 1u, right);
}
