// Weights in planes (see `planes.rs`) whose units have 8 bytes of codes. Offsets are in bytes from the start of the binding.

fn pair_word(at: u32) -> u32 {
    return pairs[at >> 3u][(at >> 2u) & 1u];
}

/// A float16 at an even offset.
fn pair_half(at: u32) -> f32 {
    let both = unpack2x16float(pair_word(at));
    return select(both.x, both.y, (at & 2u) != 0u);
}

/// Two bytes at an even offset.
fn pair_short(at: u32) -> u32 {
    return (pair_word(at) >> ((at & 2u) * 8u)) & 0xFFFFu;
}
