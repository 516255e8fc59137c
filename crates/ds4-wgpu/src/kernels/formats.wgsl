// Number formats of cached rows: E4M3, E2M1, float16 and powers of two, rounded to nearest with ties to even. Subnormal results are
// handled as integers, because a device may flush them.

/// The smallest power of two that is not below a positive normal `x`.
fn pow2_at_least(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let up = select(0u, 1u, (bits & 0x7FFFFFu) != 0u);
    return bitcast<f32>(min((bits >> 23u) + up, 254u) << 23u);
}

/// Divides by a power of two: exact.
fn over_pow2(x: f32, power: f32) -> f32 {
    return x * bitcast<f32>((254u << 23u) - bitcast<u32>(power));
}

/// E4M3 code of a value within 448 of 0.
fn e4m3_encode(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 31u) << 7u;
    let magnitude = min(abs(x), 448.0);
    if (magnitude < 0.015625) {
        // Steps of 2^-9; eight of them are the smallest normal number, whose code is 8.
        return sign | u32(round(magnitude * 512.0));
    }
    let bits = bitcast<u32>(magnitude);
    let rounded = bits + 0x7FFFFu + ((bits >> 20u) & 1u);
    return sign | ((rounded >> 20u) - (120u << 3u));
}

/// E2M1 code of a value within 6 of 0.
fn e2m1_encode(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 31u) << 3u;
    let magnitude = min(abs(x), 6.0);
    var code = u32(round(magnitude * 0.5)) + 4u;
    if (magnitude < 2.0) {
        code = u32(round(magnitude * 2.0));
    } else if (magnitude < 4.0) {
        code = u32(round(magnitude)) + 2u;
    }
    return sign | code;
}

/// Twice the value of an E2M1 code.
fn e2m1_doubled(code: u32) -> i32 {
    let c = code & 7u;
    let e = c >> 1u;
    let magnitude = i32(select((2u | (c & 1u)) << (max(e, 1u) - 1u), c & 1u, e == 0u));
    return select(magnitude, -magnitude, (code & 8u) != 0u);
}

/// float16 bits of a value, which is cut off at the largest finite one.
fn half_encode(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 16u) & 0x8000u;
    let magnitude = min(abs(x), 65504.0);
    if (magnitude < 6.103515625e-05) {
        return sign | u32(round(magnitude * 16777216.0));
    }
    let bits = bitcast<u32>(magnitude);
    let rounded = bits + 0xFFFu + ((bits >> 13u) & 1u);
    return sign | ((rounded >> 13u) - (112u << 10u));
}
