//! The rounding of cached rows that the model was trained with, and the number formats behind it.
//!
//! KV rows: all but the rotary channels in groups of 64, each scaled by a power of two so that it fits E4M3.
//! Indexer rows and queries: a Walsh-Hadamard transform, then groups of 32 scaled to fit E2M1.
//! Every rounding is to nearest, ties to the even mantissa. (DeepSeek V4 inference code, `kernel.py`.)

/// Channels that share a scale in a KV row.
pub const KV_GROUP: usize = 64;
/// Channels that share a scale in an indexer row.
pub const INDEX_GROUP: usize = 32;
/// Largest finite E4M3 magnitude.
const E4M3_MAX: f32 = 448.0;
/// Largest E2M1 magnitude.
const E2M1_MAX: f32 = 6.0;

/// The smallest power of two that is not below `x`, for a positive normal `x`.
///
/// Taken from the bits: `log2` in float32 can be off by one next to a power of two.
pub fn pow2_at_least(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) & 0xFF;
    let up = u32::from(bits & 0x7F_FFFF != 0);
    f32::from_bits((exponent + up).min(254) << 23)
}

/// The biased exponent of a power of two, as an E8M0 byte (value = 2^(byte - 127)).
pub fn e8m0_encode(power: f32) -> u8 {
    (power.to_bits() >> 23) as u8
}

/// The power of two that an E8M0 byte stands for.
pub fn e8m0_decode(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22), // 2^-127 is subnormal
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// Nearest E4M3 code (sign, 4 exponent bits with bias 7, 3 mantissa bits) of a value within ±448.
pub fn e4m3_encode(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 31) as u8) << 7;
    let magnitude = x.abs().min(E4M3_MAX);
    if magnitude < 0.015625 {
        // Subnormal: steps of 2^-9. A result of 8 steps is the smallest normal number, whose code is 8 as well.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_FFFF + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - ((127 - 7) << 3)) as u8
}

/// The value of an E4M3 code.
pub fn e4m3_decode(code: u8) -> f32 {
    // Placed into a float32's exponent and mantissa fields the code is the value times 2^(7-127), subnormals included.
    let magnitude = f32::from_bits(u32::from(code & 0x7F) << 20) * f32::from_bits((127 + 120) << 23);
    f32::from_bits(magnitude.to_bits() | u32::from(code >> 7) << 31)
}

/// Nearest E2M1 code (sign in bit 3; magnitudes 0, .5, 1, 1.5, 2, 3, 4, 6) of a value within ±6.
pub fn e2m1_encode(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 31) as u8) << 3;
    let magnitude = x.abs().min(E2M1_MAX);
    let code = if magnitude < 2.0 {
        (magnitude * 2.0).round_ties_even() as u8
    } else if magnitude < 4.0 {
        magnitude.round_ties_even() as u8 + 2
    } else {
        (magnitude * 0.5).round_ties_even() as u8 + 4
    };
    sign | code
}

/// The value of an E2M1 code.
pub fn e2m1_decode(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[usize::from(code & 7)];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// The scale of one group of a KV row: a power of two.
pub fn kv_scale(group: &[f32]) -> f32 {
    let largest = group.iter().fold(1e-4f32, |a, v| a.max(v.abs()));
    pow2_at_least(largest * (1.0 / E4M3_MAX))
}

/// The scale of one group of a transformed indexer row: a power of two.
pub fn index_scale(group: &[f32]) -> f32 {
    let largest = group.iter().fold(E2M1_MAX * f32::MIN_POSITIVE, |a, v| a.max(v.abs()));
    pow2_at_least(largest * (1.0 / E2M1_MAX))
}

/// Rounds the first `row.len() - rope_dim` channels of a KV row as the model was trained: E4M3 with one scale per 64.
pub fn round_kv_row(row: &mut [f32], rope_dim: usize) {
    let n = row.len() - rope_dim;
    for group in row[..n].chunks_mut(KV_GROUP) {
        let scale = kv_scale(group);
        for v in group {
            *v = e4m3_decode(e4m3_encode(*v / scale)) * scale;
        }
    }
}

/// Transforms and rounds an indexer row or query in place: Hadamard, then E2M1 with one scale per 32.
pub fn round_index_row(row: &mut [f32]) {
    hadamard(row);
    for group in row.chunks_mut(INDEX_GROUP) {
        let scale = index_scale(group);
        for v in group {
            *v = e2m1_decode(e2m1_encode(*v / scale)) * scale;
        }
    }
}

/// Multiplies by the orthonormal Walsh-Hadamard matrix in natural order. The length is a power of two.
pub fn hadamard(x: &mut [f32]) {
    debug_assert!(x.len().is_power_of_two());
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let norm = (x.len() as f64).powf(-0.5) as f32;
    x.iter_mut().for_each(|v| *v *= norm);
}
