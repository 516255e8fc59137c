// Hyper-connections after a sublayer: S'_k = post_k y + sum_j comb_jk S_j. The sum runs over comb's first index.
// grid: (n_embd / 4 / WG, rows).

struct Params {
    pad: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> merge: array<f32>;
@group(0) @binding(2) var<storage, read> output: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> streams: array<vec4<f32>>;

const WIDTH: u32 = N_EMBD / 4u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = block.x * WG + t;
    if (i >= WIDTH) {
        return;
    }
    let row = block.y;
    let weights = row * MERGE_STEP + p.pad;
    let y = output[row * WIDTH + i];
    var old: array<vec4<f32>, HC>;
    for (var j = 0u; j < HC; j += 1u) {
        old[j] = streams[(row * HC + j) * WIDTH + i];
    }
    for (var k = 0u; k < HC; k += 1u) {
        var mixed = vec4<f32>();
        for (var j = 0u; j < HC; j += 1u) {
            mixed = fma(vec4<f32>(merge[weights + HC + j * HC + k]), old[j], mixed);
        }
        streams[(row * HC + k) * WIDTH + i] = fma(vec4<f32>(merge[weights + k]), y, mixed);
    }
}
