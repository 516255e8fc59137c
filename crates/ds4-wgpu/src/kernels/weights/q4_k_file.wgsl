// Q4_K: 144 bytes for 256 weights: float16 scale and minimum, eight 6-bit scales and minima in 12 bytes, 128 bytes of codes. Group
// 2 i is in the low halves of bytes 32 i to 32 i + 31, group 2 i + 1 in their high halves.

fn load_q4_k(row: u32, u: u32, units: u32) -> Unit {
    let at = row + (u / 8u) * 144u;
    let g = u % 8u;
    let d = unpack2x16float(words[at >> 2u]);
    let a = byte_at(at + 4u + g % 4u);
    let b = byte_at(at + 8u + g % 4u);
    var scale = a & 63u;
    var minimum = b & 63u;
    if (g >= 4u) {
        let c = byte_at(at + 8u + g);
        scale = (c & 15u) | ((a >> 6u) << 4u);
        minimum = (c >> 4u) | ((b >> 6u) << 4u);
    }
    let shift = vec4<u32>((g & 1u) * 4u);
    let codes = at + 16u + (g / 2u) * 32u;
    let nibbles = vec4<u32>(0x0F0F0F0Fu);
    return Unit(
        (words_at(codes) >> shift) & nibbles,
        (words_at(codes + 16u) >> shift) & nibbles,
        vec2<f32>(d.x * f32(scale)),
        vec2<f32>(d.y * f32(minimum)),
    );
}
