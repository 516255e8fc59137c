// The names that kernels use for the units of any format, for unquantized ones.

const UNIT: u32 = 8u;
const UNIT_VEC4: u32 = 2u;

alias Unit = FloatUnit;

/// Weights 4 w to 4 w + 3 of the unit.
fn unit_vec4(unit: Unit, w: u32) -> vec4<f32> {
    if (w == 0u) {
        return unit.low;
    }
    return unit.high;
}

/// The unit's product with eight float32 activations (given as bits), added to `sum`.
fn add_plain(unit: Unit, low: vec4<u32>, high: vec4<u32>, d: f32, sum: f32) -> f32 {
    return add_floats(unit, low, high, sum);
}
