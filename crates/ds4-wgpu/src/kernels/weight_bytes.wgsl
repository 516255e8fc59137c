// Weights as the file has them: bytes, read in words. `row` and `at` are byte offsets into the binding.

@group(0) @binding(1) var<storage, read> weights: array<u32>;

/// Four bytes at any offset.
fn word_at(at: u32) -> u32 {
    let i = at >> 2u;
    let shift = (at & 3u) * 8u;
    let low = weights[i];
    if (shift == 0u) {
        return low;
    }
    return (low >> shift) | (weights[i + 1u] << (32u - shift));
}

/// Sixteen bytes at any offset.
fn words_at(at: u32) -> vec4<u32> {
    let i = at >> 2u;
    let shift = (at & 3u) * 8u;
    let low = vec4<u32>(weights[i], weights[i + 1u], weights[i + 2u], weights[i + 3u]);
    if (shift == 0u) {
        return low;
    }
    let high = vec4<u32>(low.yzw, weights[i + 4u]);
    return (low >> vec4<u32>(shift)) | (high << vec4<u32>(32u - shift));
}

/// A float16 at an even offset.
fn half_at(at: u32) -> f32 {
    let both = unpack2x16float(weights[at >> 2u]);
    return select(both.x, both.y, (at & 2u) != 0u);
}

/// A byte.
fn byte_at(at: u32) -> u32 {
    return (weights[at >> 2u] >> ((at & 3u) * 8u)) & 0xFFu;
}
