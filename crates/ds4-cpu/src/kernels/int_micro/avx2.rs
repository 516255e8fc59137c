//! AVX2: a register holds one 32-bit sum for each of eight weight rows.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use super::halves::{HALF, multiply_by_halves};
use std::arch::x86_64::*;

multiply_by_halves!("avx2,fma");

type Ints = __m256i;
type Floats = __m256;
/// Unsigned codes, and what their signs are taken from where they have some.
type Weights = (__m256i, __m256i);
type Quad = *const i32;

#[target_feature(enable = "avx2,fma")]
#[inline]
fn start(value: i32) -> Ints {
    _mm256_set1_epi32(value)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn start_floats() -> Floats {
    _mm256_setzero_ps()
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn ints_to_floats(ints: Ints) -> Floats {
    _mm256_cvtepi32_ps(ints)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn scaled(floats: Floats, by: f32) -> Floats {
    _mm256_mul_ps(floats, _mm256_set1_ps(by))
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_product(a: Floats, b: Floats, total: Floats) -> Floats {
    _mm256_fmadd_ps(a, b, total)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn subtract_product(a: Floats, b: Floats, total: Floats) -> Floats {
    _mm256_fnmadd_ps(a, b, total)
}

/// # Safety
/// Eight floats can be read.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn load(from: *const f32) -> Floats {
    // SAFETY: the caller's promise; the load needs no alignment.
    unsafe { _mm256_loadu_ps(from) }
}

/// # Safety
/// Eight floats can be written.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn store(to: *mut f32, floats: Floats) {
    // SAFETY: the caller's promise; the store needs no alignment.
    unsafe { _mm256_storeu_ps(to, floats) };
}

/// # Safety
/// 32 codes can be read.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn weights<const SIGNED: bool>(from: *const u8) -> Weights {
    // SAFETY: the caller's promise; the load needs no alignment.
    let codes = unsafe { _mm256_loadu_si256(from.cast()) };
    if SIGNED {
        let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        return (_mm256_abs_epi8(signed), signed);
    }
    (codes, codes)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn quad(from: *const i32) -> Quad {
    from
}

/// # Safety
/// The quad has row `R`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn dot<const R: usize, const SIGNED: bool>(sum: Ints, (w, sign): Weights, x: Quad) -> Ints {
    // SAFETY: the caller's promise.
    let mut x = _mm256_set1_epi32(unsafe { *x.add(R) });
    if SIGNED {
        // |w| * (x with the sign of w): pairs of at most 128 * 127 * 2. The byte product adds pairs with saturation at
        // 32767, too little for codes up to 255.
        x = _mm256_sign_epi8(x, sign);
    }
    let pairs = _mm256_maddubs_epi16(w, x);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// # Safety
/// Eight pairs of factors can be read.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn min_sums(factors: *const i32, sums: i32) -> Ints {
    // SAFETY: the caller's promise; the load needs no alignment.
    _mm256_madd_epi16(unsafe { _mm256_loadu_si256(factors.cast()) }, _mm256_set1_epi32(sums))
}
