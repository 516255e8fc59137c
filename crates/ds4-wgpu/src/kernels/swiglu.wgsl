// The experts' inner values: weight * silu(min(gate, limit)) * clamp(up, -limit, limit), in float32 and, with INTEGERS, as int8.
// A slot is one expert of one row; the last of a row is the shared expert, whose weight is 1. grid: (groups of all slots / WG).

struct Params {
    groups: u32,
    first_row: u32,
    limit: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> up: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> mid: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> scales: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let g = id.x;
    if (g >= p.groups) {
        return;
    }
    let slot = g / (N_FF / 32u);
    let choice = slot % (USED + 1u);
    var weight = 1.0;
    if (choice < USED) {
        weight = weights[(p.first_row + slot / (USED + 1u)) * USED + choice];
    }
    var v: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i += 1u) {
        let a = min(gate[g * 8u + i], vec4<f32>(p.limit));
        let b = clamp(up[g * 8u + i], vec4<f32>(-p.limit), vec4<f32>(p.limit));
        v[i] = a / (vec4<f32>(1.0) + exp(-a)) * b * weight;
        mid[g * 8u + i] = v[i];
    }
    if (INTEGERS) {
        let q = quantize_group(v);
        codes[2u * g] = q.low;
        codes[2u * g + 1u] = q.high;
        scales[g] = q.scale;
    }
}
