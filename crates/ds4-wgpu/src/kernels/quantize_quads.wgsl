// The int8 form of values that the invocations of a workgroup hold, four each: eight neighbours have a group of 32.

var<workgroup> largest_of: array<u32, WG>;

struct QuantizedQuad {
    codes: u32,
    scale: f32,
}

/// The codes of `v` and the scale of its group. All invocations call it.
fn quantize_quad(v: vec4<f32>, t: u32) -> QuantizedQuad {
    workgroupBarrier();
    largest_of[t] = largest_bits(v);
    workgroupBarrier();
    let first = t / 8u * 8u;
    var bits = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        bits = max(bits, largest_of[first + i]);
    }
    let scales = scales_of(bits);
    return QuantizedQuad(select(0u, codes_of(v, scales.y), scales.y != 0.0), scales.x);
}
