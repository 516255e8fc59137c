// Q4_K in planes: for each unit 16 bytes of codes, weights 0 to 15 in their low halves, and two bytes with scale and minimum; for
// every 8 units float16 scale and minimum.

fn load_q4_k(row: u32, u: u32, units: u32) -> Unit {
    let codes = quads[(row >> 4u) + u];
    let both = quad_short(row + 16u * units + 2u * u);
    let d = unpack2x16float(quad_word(row + 18u * units + 4u * (u / 8u)));
    let nibbles = vec4<u32>(0x0F0F0F0Fu);
    return Unit(
        codes & nibbles,
        (codes >> vec4<u32>(4u)) & nibbles,
        vec2<f32>(d.x * f32(both & 255u)),
        vec2<f32>(d.y * f32(both >> 8u)),
    );
}
