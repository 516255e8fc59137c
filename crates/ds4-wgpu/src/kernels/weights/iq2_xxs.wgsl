// IQ2_XXS: a unit is four indices into a grid of eight magnitudes, four times 7 sign bits (the eighth makes their number even), and a
// 4-bit scale. Both tables are brought to workgroup memory.

var<workgroup> magnitudes: array<vec2<u32>, 256>;
/// Of each of an octet's bytes whether it is negated: bit 0 of byte i for weight i, bit 1 for weight i + 4.
var<workgroup> negated: array<u32, 128>;

/// Bit 0 of byte i for bit i of the lowest four.
fn spread(bits: u32) -> u32 {
    return ((bits & 15u) * 0x00204081u) & ONES;
}

fn prepare_iq2_xxs(t: u32) {
    for (var i = t; i < 256u; i += WG) {
        magnitudes[i] = grid[i];
    }
    for (var i = t; i < 128u; i += WG) {
        let all = i | ((countOneBits(i) & 1u) << 7u);
        negated[i] = spread(all) | (spread(all >> 4u) << 1u);
    }
    workgroupBarrier();
}

/// The eight signed magnitudes of octet `o`.
fn octet(indices: u32, signs: u32, o: u32) -> vec2<u32> {
    let values = magnitudes[(indices >> (8u * o)) & 255u];
    let both = negated[(signs >> (7u * o)) & 127u];
    let ones = vec2<u32>(both, both >> 1u) & vec2<u32>(ONES);
    // Complement and add 1 where a byte is negated; no magnitude is 0.
    return (values ^ (ones * 0xFFu)) + ones;
}

fn iq2_xxs_unit(indices: u32, signs: u32, d: f32) -> Unit {
    let scale = d * f32(2u * (signs >> 28u) + 1u) * 0.125;
    return Unit(
        vec4<u32>(octet(indices, signs, 0u), octet(indices, signs, 1u)),
        vec4<u32>(octet(indices, signs, 2u), octet(indices, signs, 3u)),
        vec2<f32>(scale),
        vec2<f32>(0.0),
    );
}
