// Activations as int8 in groups of 32: scale d = amax / 127, code = round(x / d), halves away from zero. A group too small for
// 127 / amax to be finite has scale and codes 0; one with a NaN or an infinity has scale NaN, so that the defect shows.

struct Quantized {
    low: vec4<u32>,
    high: vec4<u32>,
    scale: f32,
}

fn largest_bits(v: vec4<f32>) -> u32 {
    // As integers, magnitudes order like the numbers, and NaN comes out above infinity.
    let bits = bitcast<vec4<u32>>(v) & vec4<u32>(0x7FFFFFFFu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

fn codes_of(v: vec4<f32>, inverse: f32) -> u32 {
    let x = v * inverse;
    // The largest number below one half: it carries halves to the next integer and nothing else.
    let half = bitcast<vec4<f32>>((bitcast<vec4<u32>>(x) & vec4<u32>(0x80000000u)) | vec4<u32>(0x3EFFFFFFu));
    return pack4xI8(vec4<i32>(x + half));
}

/// Scale and its inverse of a group whose largest magnitude has these bits.
fn scales_of(bits: u32) -> vec2<f32> {
    let largest = bitcast<f32>(bits);
    if (bits >= 0x7F800000u) {
        return vec2<f32>(bitcast<f32>(bits | 0x7FC00000u), 0.0);
    }
    if (largest < 3.8e-37) {
        return vec2<f32>(0.0);
    }
    return vec2<f32>(largest / 127.0, 127.0 / largest);
}

fn quantize_group(v: array<vec4<f32>, 8>) -> Quantized {
    var x = v;
    var bits = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        bits = max(bits, largest_bits(x[i]));
    }
    let scales = scales_of(bits);
    var codes: array<u32, 8>;
    for (var i = 0u; i < 8u; i += 1u) {
        if (scales.y != 0.0) {
            codes[i] = codes_of(x[i], scales.y);
        }
    }
    return Quantized(
        vec4<u32>(codes[0], codes[1], codes[2], codes[3]),
        vec4<u32>(codes[4], codes[5], codes[6], codes[7]),
        scales.x,
    );
}
