// IQ2_XXS: a unit is four indices into a grid of eight magnitudes, four times 7 sign bits (the eighth makes their number even), and a
// 4-bit scale. The grid is brought to workgroup memory.

var<workgroup> magnitudes: array<vec2<u32>, 256>;

fn prepare_iq2_xxs(t: u32) {
    for (var i = t; i < 256u; i += WG) {
        magnitudes[i] = grid[i];
    }
    workgroupBarrier();
}

/// The eight signed magnitudes of octet `o`. Bit w + 8 i of `signs` says whether byte i of word w of the unit is negated.
fn octet(indices: u32, signs: u32, o: u32) -> vec2<u32> {
    let values = magnitudes[(indices >> (8u * o)) & 255u];
    let ones = vec2<u32>(signs >> (2u * o), signs >> (2u * o + 1u)) & vec2<u32>(ONES);
    // Complement and add 1 where a byte is negated; no magnitude is 0.
    return (values ^ (ones * 0xFFu)) + ones;
}

/// A unit of scale d (2 scale + 1) / 8.
fn iq2_xxs_unit(indices: u32, signs: u32, scale: u32, d: f32) -> Unit {
    return Unit(
        vec4<u32>(octet(indices, signs, 0u), octet(indices, signs, 1u)),
        vec4<u32>(octet(indices, signs, 2u), octet(indices, signs, 3u)),
        vec2<f32>(d * f32(2u * scale + 1u) * 0.125),
        vec2<f32>(0.0),
    );
}
