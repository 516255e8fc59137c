// float32 weights.

fn load_unit(row: u32, u: u32) -> Unit {
    let at = (row >> 4u) + u * 2u;
    return Unit(bitcast<vec4<f32>>(weights[at]), bitcast<vec4<f32>>(weights[at + 1u]));
}
