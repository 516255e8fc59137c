// What the unquantized formats share: a unit is eight weights. Rows are whole numbers of 16 bytes. Each format's file has a function
// that loads a unit: `row` is the byte offset of a matrix row, `u` the unit's number in it.

struct FloatUnit {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn add_four(w: vec4<f32>, x: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}

/// The unit's product with eight float32 activations (given as bits), added to `sum`.
fn add_floats(unit: FloatUnit, low: vec4<u32>, high: vec4<u32>, sum: f32) -> f32 {
    return add_four(unit.high, bitcast<vec4<f32>>(high), add_four(unit.low, bitcast<vec4<f32>>(low), sum));
}
