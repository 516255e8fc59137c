// Values of E4M3 and float16 codes on cards that lose small numbers when they convert float16: by integers.

/// Values of four E4M3 codes.
fn e4m3_decode(codes: u32) -> vec4<f32> {
    let c = (vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xFFu);
    let m = c & vec4<u32>(0x7Fu);
    let normal = bitcast<vec4<f32>>((m << vec4<u32>(20u)) + vec4<u32>(120u << 23u));
    let magnitude = select(normal, vec4<f32>(m) * 0.001953125, m < vec4<u32>(8u));
    return select(magnitude, -magnitude, c > vec4<u32>(0x7Fu));
}

/// Values of two float16.
fn half_decode(word: u32) -> vec2<f32> {
    let h = vec2<u32>(word & 0xFFFFu, word >> 16u);
    let m = h & vec2<u32>(0x7FFFu);
    let normal = bitcast<vec2<f32>>((m << vec2<u32>(13u)) + vec2<u32>(112u << 23u));
    let magnitude = select(normal, vec2<f32>(m) * 5.9604644775390625e-08, m < vec2<u32>(0x400u));
    return select(magnitude, -magnitude, h > vec2<u32>(0x7FFFu));
}
