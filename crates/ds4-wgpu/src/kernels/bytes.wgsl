// Arithmetic on four bytes of a word at once.

const ONES: u32 = 0x01010101u;

/// 0xFF in every byte whose lowest bit is set.
fn byte_mask(bits: u32) -> u32 {
    return (bits & ONES) * 0xFFu;
}

/// The bytes of `values`, negated where `mask` has 0xFF. No negated byte may be 0: its carry would reach the next.
fn negate_bytes(values: u32, mask: u32) -> u32 {
    return (values ^ mask) + (mask & ONES);
}

/// Doubled values of four E2M1 codes (one in each byte, 0 to 15) as int8: sign and magnitude; doubled, magnitudes are integers.
fn doubled(codes: u32) -> u32 {
    let b0 = codes;
    let b1 = codes >> 1u;
    let b2 = codes >> 2u;
    let mantissa = (b0 & ONES) + 2u * ((b1 | b2) & ONES);
    let twice = byte_mask(b2);
    let four_times = twice & byte_mask(b1);
    let magnitude = mantissa + (mantissa & twice) + 2u * (mantissa & four_times);
    return negate_bytes(magnitude, byte_mask(codes >> 3u) & byte_mask(b0 | b1 | b2));
}
