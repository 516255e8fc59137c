//! Small number formats to f32.

#[cfg(target_arch = "x86_64")]
use super::super::isa::Kind;
use super::super::isa::{Isa, per_isa};

/// Elements that share an exponent in an FP4 row.
const FP4_GROUP: usize = 32;

per_isa! {
    /// bfloat16 numbers (little-endian bytes, two each) to f32.
    ///
    /// # Panics
    /// `bytes` does not hold `out.len()` numbers.
    pub fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) = bf16_to_f32_body
}

#[inline(always)]
fn bf16_to_f32_body(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * 2, "bytes of bfloat16 numbers");
    for (out, &b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
    }
}

/// Half-precision numbers (little-endian bytes, two each) to f32.
///
/// # Panics
/// `bytes` does not hold `out.len()` numbers.
pub fn f16_to_f32(isa: Isa, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * 2, "bytes of half-precision numbers");
    let done = match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both sets include F16C, and an `Isa` exists only where the processor offers it.
        Kind::Avx2 | Kind::Avx512 => unsafe { x86::f16_to_f32(bytes, out) },
        _ => 0,
    };
    for (out, &b) in out[done..].iter_mut().zip(bytes[2 * done..].as_chunks::<2>().0) {
        *out = f16_bits_to_f32(u16::from_le_bytes(b));
    }
}

/// Any half-precision number, in integer arithmetic and one exact product.
#[inline(always)]
pub(crate) fn f16_bits_to_f32(bits: u16) -> f32 {
    let sign = (u32::from(bits) & 0x8000) << 16;
    let magnitude = (u32::from(bits) & 0x7fff) << 13;
    let value = if magnitude >= 0x7c00 << 13 {
        // Infinity, or NaN (made quiet, as processors do).
        let quiet = if magnitude > 0x7c00 << 13 { 0x0040_0000 } else { 0 };
        magnitude | 0x7f80_0000 | quiet
    } else {
        // Exponent bias 15 to 127; subnormals come out right because the product is of values.
        (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | value)
}

per_isa! {
    /// Decodes FP8 (E4M3) numbers that share a power of two per `group`:
    /// `out[i] = 2^(exponents[i / group] - 127) * e4m3(codes[i])`.
    ///
    /// The NaN code (magnitude 0x7f), which no rounded row contains, decodes to 480.
    ///
    /// # Panics
    /// Lengths differ, or there are too few exponents.
    pub fn decode_fp8(codes: &[u8], exponents: &[u8], group: usize, out: &mut [f32]) = decode_fp8_body
}

#[inline(always)]
fn decode_fp8_body(codes: &[u8], exponents: &[u8], group: usize, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "FP8 codes and room for their values");
    assert!(group > 0 && exponents.len() >= codes.len().div_ceil(group), "too few FP8 exponents");
    for ((codes, out), &e) in codes.chunks(group).zip(out.chunks_mut(group)).zip(exponents) {
        let scale = power_of_two(e);
        for (out, &code) in out.iter_mut().zip(codes) {
            let code = u32::from(code);
            // E4M3's exponent and mantissa in the place of float32's: 2^120 too small, subnormals included.
            let small = f32::from_bits((code & 0x80) << 24 | (code & 0x7f) << 20);
            *out = small * f32::from_bits((127 + 120) << 23) * scale;
        }
    }
}

per_isa! {
    /// Decodes FP4 (E2M1) numbers that share a power of two per 32, two to a byte, the first in the lower half:
    /// `out[i] = 2^(exponents[i / 32] - 127) * e2m1(code i)`.
    ///
    /// # Panics
    /// `out.len()` is not a multiple of 32, or the other lengths do not fit it.
    pub fn decode_fp4(codes: &[u8], exponents: &[u8], out: &mut [f32]) = decode_fp4_body
}

#[inline(always)]
fn decode_fp4_body(codes: &[u8], exponents: &[u8], out: &mut [f32]) {
    assert!(
        out.len().is_multiple_of(FP4_GROUP) && codes.len() == out.len() / 2 && exponents.len() == out.len() / FP4_GROUP,
        "FP4 codes, exponents and room for their values"
    );
    let groups = codes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<FP4_GROUP>().0);
    for ((codes, out), &e) in groups.zip(exponents) {
        let scale = power_of_two(e);
        let (mut low, mut high) = ([0.0f32; 16], [0.0f32; 16]);
        for i in 0..16 {
            low[i] = e2m1(codes[i] & 15) * scale;
            high[i] = e2m1(codes[i] >> 4) * scale;
        }
        for i in 0..16 {
            (out[2 * i], out[2 * i + 1]) = (low[i], high[i]);
        }
    }
}

/// 0, .5, 1, 1.5, 2, 3, 4, 6 for 0..8, negative for 8..16.
#[inline(always)]
fn e2m1(code: u8) -> f32 {
    let code = u32::from(code);
    f32::from_bits((code & 8) << 28 | (code & 7) << 22) * f32::from_bits((127 + 126) << 23)
}

/// `2^(e - 127)`: an E8M0 number. 255, which no rounding leaves, is infinite here as in `ds4_model::rounding`.
#[inline(always)]
fn power_of_two(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(e) << 23),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

    /// Converts whole eights, returns how many numbers that was. `bytes` holds `out.len()` numbers.
    #[target_feature(enable = "avx2,f16c")]
    pub fn f16_to_f32(bytes: &[u8], out: &mut [f32]) -> usize {
        let (bytes, out) = (bytes.as_chunks::<16>().0, out.as_chunks_mut::<8>().0);
        let done = bytes.len().min(out.len()) * 8;
        for (bytes, out) in bytes.iter().zip(out) {
            // SAFETY: `bytes` is 16 readable bytes and `out` eight writable floats; neither access needs
            // alignment.
            unsafe {
                let half = _mm_loadu_si128(bytes.as_ptr().cast());
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(half));
            }
        }
        done
    }
}
