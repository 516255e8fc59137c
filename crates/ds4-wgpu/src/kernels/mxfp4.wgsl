// MXFP4: 17 bytes for 32 weights: an exponent, then 16 bytes with element i in the low half of byte i, element i + 16 in the high
// half. Codes are sign and E2M1 magnitude; doubled, the magnitudes are integers.

const HAS_MINIMUM: bool = false;

/// Doubled values of four codes (one in each byte, 0 to 15) as int8.
fn doubled(codes: u32) -> u32 {
    let b0 = codes;
    let b1 = codes >> 1u;
    let b2 = codes >> 2u;
    let mantissa = (b0 & ONES) + 2u * ((b1 | b2) & ONES);
    let twice = byte_mask(b2);
    let four_times = twice & byte_mask(b1);
    let magnitude = mantissa + (mantissa & twice) + 2u * (mantissa & four_times);
    return negate_bytes(magnitude, byte_mask(codes >> 3u) & byte_mask(b0 | b1 | b2));
}

fn doubled4(codes: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(doubled(codes.x), doubled(codes.y), doubled(codes.z), doubled(codes.w));
}

fn load_unit(row: u32, u: u32) -> Unit {
    let at = row + u * 17u;
    let codes = words_at(at + 1u);
    let nibbles = vec4<u32>(0x0F0F0F0Fu);
    // Half of 2^(e - 127), because the codes are doubled. Smaller than a normal number it is 0.
    let scale = bitcast<f32>((max(byte_at(at), 1u) - 1u) << 23u);
    return Unit(
        doubled4(codes & nibbles),
        doubled4((codes >> vec4<u32>(4u)) & nibbles),
        vec2<f32>(scale),
        vec2<f32>(0.0),
    );
}
