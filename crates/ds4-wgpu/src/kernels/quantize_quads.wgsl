// The int8 form of values that the invocations of a workgroup hold, four each: eight neighbours have a group of 32.

struct QuantizedQuad {
    codes: u32,
    scale: f32,
}

/// The codes of `v` and the scale of its group. All invocations call it.
fn quantize_quad(v: vec4<f32>, t: u32) -> QuantizedQuad {
    let scales = scales_of(largest_of_eight(largest_bits(v), t));
    return QuantizedQuad(select(0u, codes_of(v, scales.y), scales.y != 0.0), scales.x);
}
