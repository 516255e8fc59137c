// Q8_0: 34 bytes for 32 weights: float16 scale, 32 int8 codes.

fn load_q8_0(row: u32, u: u32, units: u32) -> Unit {
    let at = row + u * 34u;
    return Unit(words_at(at + 2u), words_at(at + 18u), vec2<f32>(half_at(at)), vec2<f32>(0.0));
}
