// IQ2_XXS in planes: for each unit 4 bytes of indices and 4 of signs, all of them and in the order that `octet` takes them in; for every
// 8 units 4 bytes of scales, then for every 8 units a float16 scale.

fn load_iq2_xxs(row: u32, u: u32, units: u32) -> Unit {
    let both = pairs[(row >> 3u) + u];
    let block = u / 8u;
    let scales = pair_word(row + 8u * units + 4u * block);
    let d = pair_half(row + 8u * units + units / 2u + 2u * block);
    return iq2_xxs_unit(both.x, both.y, (scales >> (4u * (u % 8u))) & 15u, d);
}
