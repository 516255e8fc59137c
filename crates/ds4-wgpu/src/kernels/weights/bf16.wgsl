// bfloat16 weights: the upper halves of float32.

fn two(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xFFFF0000u));
}

fn load_bf16(row: u32, u: u32, units: u32) -> FloatUnit {
    let words = quads[(row >> 4u) + u];
    return FloatUnit(vec4<f32>(two(words.x), two(words.y)), vec4<f32>(two(words.z), two(words.w)));
}
