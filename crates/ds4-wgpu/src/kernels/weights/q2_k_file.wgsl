// Q2_K: 84 bytes for 256 weights: 16 bytes with a 4-bit scale and minimum for every 16 weights, 64 bytes of codes, float16 scale and
// minimum. Group g of 32 is plane g % 4 of the 32 bytes of its half.

fn load_q2_k(row: u32, u: u32, units: u32) -> Unit {
    let at = row + (u / 8u) * 84u;
    let g = u % 8u;
    let d = unpack2x16float(words[(at + 80u) >> 2u]);
    let first = byte_at(at + 2u * g);
    let second = byte_at(at + 2u * g + 1u);
    let shift = vec4<u32>((g % 4u) * 2u);
    let codes = at + 16u + (g / 4u) * 32u;
    let pairs_of_bits = vec4<u32>(0x03030303u);
    return Unit(
        (words_at(codes) >> shift) & pairs_of_bits,
        (words_at(codes + 16u) >> shift) & pairs_of_bits,
        d.x * vec2<f32>(f32(first & 15u), f32(second & 15u)),
        d.y * vec2<f32>(f32(first >> 4u), f32(second >> 4u)),
    );
}
