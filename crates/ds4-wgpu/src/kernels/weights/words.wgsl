// Weights as the file has them: bytes, read in words. Offsets are in bytes from the start of the binding.

/// Four bytes at any offset.
fn word_at(at: u32) -> u32 {
    let i = at >> 2u;
    let shift = (at & 3u) * 8u;
    let low = words[i];
    if (shift == 0u) {
        return low;
    }
    return (low >> shift) | (words[i + 1u] << (32u - shift));
}

/// Sixteen bytes at any offset.
fn words_at(at: u32) -> vec4<u32> {
    let i = at >> 2u;
    let shift = (at & 3u) * 8u;
    let low = vec4<u32>(words[i], words[i + 1u], words[i + 2u], words[i + 3u]);
    if (shift == 0u) {
        return low;
    }
    let high = vec4<u32>(low.yzw, words[i + 4u]);
    return (low >> vec4<u32>(shift)) | (high << vec4<u32>(32u - shift));
}

/// A float16 at an even offset.
fn half_at(at: u32) -> f32 {
    let both = unpack2x16float(words[at >> 2u]);
    return select(both.x, both.y, (at & 2u) != 0u);
}

/// A byte.
fn byte_at(at: u32) -> u32 {
    return (words[at >> 2u] >> ((at & 3u) * 8u)) & 0xFFu;
}
