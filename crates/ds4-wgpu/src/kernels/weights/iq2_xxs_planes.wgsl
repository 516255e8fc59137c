// IQ2_XXS in planes: 8 bytes for each unit, a float16 scale for every 8 units.

fn load_iq2_xxs(row: u32, u: u32, units: u32) -> Unit {
    let both = pairs[(row >> 3u) + u];
    return iq2_xxs_unit(both.x, both.y, pair_half(row + 8u * units + 2u * (u / 8u)));
}
