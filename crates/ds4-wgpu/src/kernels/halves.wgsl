// Values of E4M3 and float16 codes by conversion of float16, for cards that convert even its smallest numbers exactly.

/// Values of four E4M3 codes. Moved to the exponent of float16 they are 2^8 times too small.
fn e4m3_decode(codes: u32) -> vec4<f32> {
    let even = unpack2x16float(((codes << 7u) & 0x3F803F80u) | ((codes << 8u) & 0x80008000u));
    let odd = unpack2x16float(((codes >> 1u) & 0x3F803F80u) | (codes & 0x80008000u));
    return vec4<f32>(even.x, odd.x, even.y, odd.y) * 256.0;
}

/// Values of two float16.
fn half_decode(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
