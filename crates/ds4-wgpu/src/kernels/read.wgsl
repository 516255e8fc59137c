// Reads memory as fast as it can be read; what it finds goes into one word for each invocation, so that no read can be left out.
// grid: (workgroups).

struct Params {
    /// vec4s that a workgroup reads: a multiple of 4 WG.
    each: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> memory: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> found: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var all = vec4<u32>();
    let begin = block.x * p.each;
    for (var i = t; i < p.each; i += 4u * WG) {
        let at = begin + i;
        all ^= (memory[at] ^ memory[at + WG]) ^ (memory[at + 2u * WG] ^ memory[at + 3u * WG]);
    }
    found[block.x * WG + t] = (all.x ^ all.y) ^ (all.z ^ all.w);
}
