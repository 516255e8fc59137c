// Q2_K in planes: for each unit 8 bytes of codes, plane k of a word having four codes; 2 bytes with 4-bit scales and minima of its
// halves; for every 8 units float16 scale and minimum.

fn load_q2_k(row: u32, u: u32, units: u32) -> Unit {
    let codes = pairs[(row >> 3u) + u];
    let both = pair_short(row + 8u * units + 2u * u);
    let d = unpack2x16float(pair_word(row + 10u * units + 4u * (u / 8u)));
    let shifts = vec4<u32>(0u, 2u, 4u, 6u);
    let pairs_of_bits = vec4<u32>(0x03030303u);
    return Unit(
        (vec4<u32>(codes.x) >> shifts) & pairs_of_bits,
        (vec4<u32>(codes.y) >> shifts) & pairs_of_bits,
        d.x * vec2<f32>(f32(both & 15u), f32((both >> 8u) & 15u)),
        d.y * vec2<f32>(f32((both >> 4u) & 15u), f32(both >> 12u)),
    );
}
