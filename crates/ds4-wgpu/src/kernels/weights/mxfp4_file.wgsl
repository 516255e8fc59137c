// MXFP4 in the file: 17 bytes for each unit, the exponent first.

fn load_mxfp4(row: u32, u: u32, units: u32) -> Unit {
    let at = row + u * 17u;
    return mxfp4_unit(words_at(at + 1u), byte_at(at));
}
