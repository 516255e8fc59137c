// Weights in planes (see `planes.rs`) whose units have 16 or 32 bytes of codes. Offsets are in bytes from the start of the binding.

fn quad_word(at: u32) -> u32 {
    return quads[at >> 4u][(at >> 2u) & 3u];
}

/// A float16 at an even offset.
fn quad_half(at: u32) -> f32 {
    let both = unpack2x16float(quad_word(at));
    return select(both.x, both.y, (at & 2u) != 0u);
}

/// Two bytes at an even offset.
fn quad_short(at: u32) -> u32 {
    return (quad_word(at) >> ((at & 2u) * 8u)) & 0xFFFFu;
}
