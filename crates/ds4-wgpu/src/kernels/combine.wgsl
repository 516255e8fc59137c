// The experts' results of each row, added in the order of the choice, the shared expert last. grid: (n_embd / 4 / WG, rows).

struct Params {
    first_row: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

const WIDTH: u32 = N_EMBD / 4u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let i = block.x * WG + t;
    if (i >= WIDTH) {
        return;
    }
    var sum = vec4<f32>();
    for (var slot = 0u; slot <= USED; slot += 1u) {
        sum += parts[(block.y * (USED + 1u) + slot) * WIDTH + i];
    }
    output[(p.first_row + block.y) * WIDTH + i] = sum;
}
