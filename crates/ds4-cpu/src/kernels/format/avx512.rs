//! What the formats' AVX-512 decoders share: sixteen rows into the lanes of a register.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::super::tile::{Codes, ROWS};
use std::arch::x86_64::*;

/// The first bytes of sixteen rows of at least `len` bytes each. Who decodes them has asked for them (`matmul_i8`): to do so here, a
/// few lines ahead, costs more than it gives.
pub(super) struct Columns<'a> {
    rows: &'a [&'a [u8]; ROWS],
    len: usize,
}

impl<'a> Columns<'a> {
    pub fn new(rows: &'a [&'a [u8]; ROWS]) -> Columns<'a> {
        Columns { rows, len: rows.iter().map(|row| row.len()).min().unwrap_or(0) }
    }

    /// Sixteen bytes from `at` of every row: four registers, the `j`-th with the `j`-th 32-bit word of each row.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    pub fn words(&self, at: usize) -> [__m512i; 4] {
        assert!(at + 16 <= self.len);
        // Row 4 l + i goes to the 128-bit lane l of `by_row[i]`.
        let mut by_row = [_mm512_setzero_si512(); 4];
        for (i, by_row) in by_row.iter_mut().enumerate() {
            // SAFETY: bytes `at..at + 16` exist in every row; the load needs no alignment.
            let load = |row: usize| unsafe { _mm_loadu_si128(self.rows[row].as_ptr().add(at).cast()) };
            let z = _mm512_castsi128_si512(load(i));
            let z = _mm512_inserti32x4::<1>(z, load(4 + i));
            let z = _mm512_inserti32x4::<2>(z, load(8 + i));
            *by_row = _mm512_inserti32x4::<3>(z, load(12 + i));
        }
        let low = _mm512_unpacklo_epi32(by_row[0], by_row[1]);
        let low2 = _mm512_unpacklo_epi32(by_row[2], by_row[3]);
        let high = _mm512_unpackhi_epi32(by_row[0], by_row[1]);
        let high2 = _mm512_unpackhi_epi32(by_row[2], by_row[3]);
        [
            _mm512_unpacklo_epi64(low, low2),
            _mm512_unpackhi_epi64(low, low2),
            _mm512_unpacklo_epi64(high, high2),
            _mm512_unpackhi_epi64(high, high2),
        ]
    }

    /// The byte at `at` of every row, in 32-bit lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    pub fn bytes(&self, at: usize) -> __m512i {
        assert!(at < self.len);
        // SAFETY: byte `at` exists in every row.
        let b = |row: usize| unsafe { *self.rows[row].get_unchecked(at) as i8 };
        _mm512_cvtepu8_epi32(_mm_setr_epi8(
            b(0),
            b(1),
            b(2),
            b(3),
            b(4),
            b(5),
            b(6),
            b(7),
            b(8),
            b(9),
            b(10),
            b(11),
            b(12),
            b(13),
            b(14),
            b(15),
        ))
    }

    /// The 32-bit word at `at` of every row.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    pub fn word(&self, at: usize) -> __m512i {
        assert!(at + 4 <= self.len);
        // SAFETY: bytes `at..at + 4` exist in every row.
        let w = |row: usize| unsafe { self.rows[row].as_ptr().add(at).cast::<i32>().read_unaligned() };
        _mm512_setr_epi32(
            w(0),
            w(1),
            w(2),
            w(3),
            w(4),
            w(5),
            w(6),
            w(7),
            w(8),
            w(9),
            w(10),
            w(11),
            w(12),
            w(13),
            w(14),
            w(15),
        )
    }

    /// The half-precision number at `at` of every row.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    pub fn half(&self, at: usize) -> __m512 {
        assert!(at + 2 <= self.len);
        // Inserted one by one: a vector load of sixteen numbers just stored would wait for the stores to finish.
        // SAFETY: bytes `at..at + 2` exist in every row.
        let h = |row: usize| unsafe { self.rows[row].as_ptr().add(at).cast::<i16>().read_unaligned() };
        let low = _mm_set_epi16(h(7), h(6), h(5), h(4), h(3), h(2), h(1), h(0));
        let high = _mm_set_epi16(h(15), h(14), h(13), h(12), h(11), h(10), h(9), h(8));
        _mm512_cvtph_ps(_mm256_set_m128i(high, low))
    }
}

/// The half-precision numbers in the low halves of 32-bit lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn low_half(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// The half-precision numbers in the high halves of 32-bit lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn high_half(words: __m512i) -> __m512 {
    low_half(_mm512_srli_epi32::<16>(words))
}

/// Logical shift to the right of 32-bit lanes by a number the compiler knows after unrolling.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn shift_right(words: __m512i, bits: u32) -> __m512i {
    _mm512_srlv_epi32(words, _mm512_set1_epi32(bits as i32))
}

/// Writes the codes of quad `quad` (0..8) of a group.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn store_quad(codes: &mut Codes, quad: usize, values: __m512i) {
    let to: &mut [u8; 64] = &mut codes.as_chunks_mut().0[quad];
    // SAFETY: `to` is sixty-four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), values) };
}

/// Writes sixteen scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn store_scales(to: &mut [f32; ROWS], values: __m512) {
    // SAFETY: `to` is sixteen floats; the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) };
}

/// Writes sixteen pairs of factors of the minima.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn store_factors(to: &mut [[i16; 2]; ROWS], values: __m512i) {
    // SAFETY: `to` is sixty-four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), values) };
}
