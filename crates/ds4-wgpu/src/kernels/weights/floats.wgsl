// What the unquantized formats share: a unit is eight weights. Rows are whole numbers of 16 bytes. Each format's file has a function
// that loads a unit: `row` is the byte offset of a matrix row, `u` the unit's number in it.

const UNIT: u32 = 8u;
const UNIT_VEC4: u32 = 2u;

struct Unit {
    low: vec4<f32>,
    high: vec4<f32>,
}

/// Weights 4 w to 4 w + 3 of the unit.
fn unit_vec4(unit: Unit, w: u32) -> vec4<f32> {
    if (w == 0u) {
        return unit.low;
    }
    return unit.high;
}

fn add_four(w: vec4<f32>, x: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}

/// The unit's product with eight float32 activations (given as bits), added to `sum`.
fn add_plain(unit: Unit, low: vec4<u32>, high: vec4<u32>, d: f32, sum: f32) -> f32 {
    return add_four(unit.high, bitcast<vec4<f32>>(high), add_four(unit.low, bitcast<vec4<f32>>(low), sum));
}
