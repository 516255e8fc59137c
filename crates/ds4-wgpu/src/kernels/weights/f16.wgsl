// float16 weights.

fn load_f16(row: u32, u: u32, units: u32) -> FloatUnit {
    let words = quads[(row >> 4u) + u];
    return FloatUnit(
        vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
        vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
}
