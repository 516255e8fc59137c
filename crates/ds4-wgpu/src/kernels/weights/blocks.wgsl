// What all block formats share: a unit is a group of 32 weights as int8 codes, with a scale and a minimum for each half of it.
// weight = scale * code - minimum. Each format's file has a function that loads a unit: `row` is the byte offset of a matrix row, `u`
// the unit's number in it, `units` how many a row has.

const UNIT: u32 = 32u;
const UNIT_VEC4: u32 = 8u;

struct Unit {
    low: vec4<u32>,
    high: vec4<u32>,
    scale: vec2<f32>,
    minimum: vec2<f32>,
}

fn unit_word(unit: Unit, w: u32) -> u32 {
    if (w < 4u) {
        return unit.low[w];
    }
    return unit.high[w - 4u];
}

/// Weights 4 w to 4 w + 3 of the unit.
fn unit_vec4(unit: Unit, w: u32) -> vec4<f32> {
    let half = w / 4u;
    let codes = vec4<f32>(unpack4xI8(unit_word(unit, w)));
    return fma(codes, vec4<f32>(unit.scale[half]), vec4<f32>(-unit.minimum[half]));
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

/// The unit's product with 32 int8 activations of scale `d`, added to `sum`; for formats without minima.
fn add_plain(unit: Unit, low: vec4<u32>, high: vec4<u32>, d: f32, sum: f32) -> f32 {
    return fma(unit.scale.x * d, f32(dot16(unit.low, low) + dot16(unit.high, high)), sum);
}

/// The same with minima.
fn add_with_minimum(unit: Unit, low: vec4<u32>, high: vec4<u32>, d: f32, sum: f32) -> f32 {
    let ones = vec4<u32>(ONES);
    var value = unit.scale.x * f32(dot16(unit.low, low));
    value = fma(unit.scale.y, f32(dot16(unit.high, high)), value);
    value = fma(-unit.minimum.x, f32(dot16(ones, low)), value);
    value = fma(-unit.minimum.y, f32(dot16(ones, high)), value);
    return fma(value, d, sum);
}
