// MXFP4 in planes: 16 bytes of codes for each unit, exponents.

fn load_mxfp4(row: u32, u: u32, units: u32) -> Unit {
    let at = row + 16u * units + u;
    return mxfp4_unit(quads[(row >> 4u) + u], (quad_word(at) >> ((at & 3u) * 8u)) & 0xFFu);
}
