// The int8 form of activations. grid: (groups of all rows / WG).

struct Params {
    groups: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let g = id.x;
    if (g >= p.groups) {
        return;
    }
    var v: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i += 1u) {
        v[i] = x[g * 8u + i];
    }
    let q = quantize_group(v);
    codes[2u * g] = q.low;
    codes[2u * g + 1u] = q.high;
    scales[g] = q.scale;
}
