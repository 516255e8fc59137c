// Q8_0 in planes: 32 int8 codes for each unit, float16 scales.

fn load_q8_0(row: u32, u: u32, units: u32) -> Unit {
    let at = (row >> 4u) + 2u * u;
    let scale = quad_half(row + 32u * units + 2u * u);
    return Unit(quads[at], quads[at + 1u], vec2<f32>(scale), vec2<f32>(0.0));
}
