// IQ2_XXS: 66 bytes for 256 weights: float16 scale, then 8 bytes for every 32 weights: four indices into a grid of eight magnitudes,
// four times 7 sign bits (the eighth makes their number even), a 4-bit scale.

@group(0) @binding(5) var<storage, read> grid: array<vec2<u32>>;

const HAS_MINIMUM: bool = false;

/// 0xFF in byte i for bit i of the lowest four.
fn sign_mask(bits: u32) -> u32 {
    return byte_mask((bits & 15u) * 0x00204081u);
}

/// The eight signed magnitudes of octet `o`.
fn octet(indices: u32, signs: u32, o: u32) -> vec2<u32> {
    let magnitudes = grid[(indices >> (8u * o)) & 255u];
    let code = (signs >> (7u * o)) & 127u;
    let all = code | ((countOneBits(code) & 1u) << 7u);
    return vec2<u32>(
        negate_bytes(magnitudes.x, sign_mask(all)),
        negate_bytes(magnitudes.y, sign_mask(all >> 4u)),
    );
}

fn load_unit(row: u32, u: u32) -> Unit {
    let at = row + (u / 8u) * 66u;
    let group = at + 2u + (u % 8u) * 8u;
    let indices = word_at(group);
    let signs = word_at(group + 4u);
    let scale = half_at(at) * f32(2u * (signs >> 28u) + 1u) * 0.125;
    return Unit(
        vec4<u32>(octet(indices, signs, 0u), octet(indices, signs, 1u)),
        vec4<u32>(octet(indices, signs, 2u), octet(indices, signs, 3u)),
        vec2<f32>(scale),
        vec2<f32>(0.0),
    );
}
