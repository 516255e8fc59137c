// MXFP4: a unit is an exponent and 16 bytes with element i in the low half of byte i, element i + 16 in the high half. Codes are sign
// and E2M1 magnitude; doubled, the magnitudes are integers.

fn doubled4(codes: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(doubled(codes.x), doubled(codes.y), doubled(codes.z), doubled(codes.w));
}

fn mxfp4_unit(codes: vec4<u32>, exponent: u32) -> Unit {
    let nibbles = vec4<u32>(0x0F0F0F0Fu);
    // Half of 2^(e - 127), because the codes are doubled. Smaller than a normal number it is 0.
    let scale = bitcast<f32>((max(exponent, 1u) - 1u) << 23u);
    return Unit(
        doubled4(codes & nibbles),
        doubled4((codes >> vec4<u32>(4u)) & nibbles),
        vec2<f32>(scale),
        vec2<f32>(0.0),
    );
}
