// IQ2_XXS in the file: 66 bytes for 256 weights: float16 scale, then 8 bytes for each unit: its indices, and its signs below its scale.

/// Bit 0 of byte i for bit i of the lowest four.
fn spread(bits: u32) -> u32 {
    return ((bits & 15u) * 0x00204081u) & ONES;
}

/// The signs as `octet` takes them.
fn all_signs(packed: u32) -> u32 {
    var signs = 0u;
    for (var o = 0u; o < 4u; o += 1u) {
        let seven = (packed >> (7u * o)) & 127u;
        let eight = seven | ((countOneBits(seven) & 1u) << 7u);
        signs |= (spread(eight) << (2u * o)) | (spread(eight >> 4u) << (2u * o + 1u));
    }
    return signs;
}

fn load_iq2_xxs(row: u32, u: u32, units: u32) -> Unit {
    let at = row + (u / 8u) * 66u;
    let group = at + 2u + (u % 8u) * 8u;
    let packed = word_at(group + 4u);
    return iq2_xxs_unit(word_at(group), all_signs(packed), packed >> 28u, half_at(at));
}
