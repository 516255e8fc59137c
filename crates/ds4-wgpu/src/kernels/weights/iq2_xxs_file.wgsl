// IQ2_XXS in the file: 66 bytes for 256 weights: float16 scale, then 8 bytes for each unit.

fn load_iq2_xxs(row: u32, u: u32, units: u32) -> Unit {
    let at = row + (u / 8u) * 66u;
    let group = at + 2u + (u % 8u) * 8u;
    return iq2_xxs_unit(word_at(group), word_at(group + 4u), half_at(at));
}
