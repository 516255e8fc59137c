// float32 weights.

fn load_f32(row: u32, u: u32, units: u32) -> FloatUnit {
    let at = (row >> 4u) + u * 2u;
    return FloatUnit(bitcast<vec4<f32>>(quads[at]), bitcast<vec4<f32>>(quads[at + 1u]));
}
