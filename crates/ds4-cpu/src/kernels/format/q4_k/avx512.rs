//! Q4_K with AVX-512.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, high_half, low_half, shift_right, store_factors, store_quad, store_scales};
use super::BLOCK_BYTES;
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let nibble = _mm512_set1_epi8(15);
    let factors = _mm512_set1_epi16(1);
    let codes = tile.codes.as_chunks_mut::<8>().0;
    let scales = tile.scales.as_chunks_mut::<8>().0;
    let min_scales = tile.min_scales.as_chunks_mut::<8>().0;
    tile.min_factors.iter_mut().for_each(|to| store_factors(to, factors));
    for (block, ((codes, scales), min_scales)) in codes.iter_mut().zip(scales).zip(min_scales).enumerate() {
        let at = block * BLOCK_BYTES;
        // `d` and `dmin`, then the twelve bytes of scales and minima.
        let [halves, s0, s4, s8] = columns.words(at);
        let (d, dmin) = (low_half(halves), high_half(halves));
        for b in 0..8 {
            let (scale, min) = scale_and_min(s0, s4, s8, b);
            store_scales(&mut scales[b as usize], _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale)));
            store_scales(&mut min_scales[b as usize], _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(min)));
        }
        for piece in 0..8 {
            // Sixteen bytes hold half of two groups.
            let (low, high) = (piece / 2 * 2, piece / 2 * 2 + 1);
            for (j, &words) in columns.words(at + 16 + 16 * piece).iter().enumerate() {
                let quad = piece % 2 * 4 + j;
                store_quad(&mut codes[low], quad, _mm512_and_si512(words, nibble));
                store_quad(&mut codes[high], quad, _mm512_and_si512(_mm512_srli_epi32::<4>(words), nibble));
            }
        }
    }
}

/// [`super::unpack_scales`] of group `b`, from the bytes 0..4, 4..8 and 8..12 of sixteen rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn scale_and_min(s0: __m512i, s4: __m512i, s8: __m512i, b: u32) -> (__m512i, __m512i) {
    let six = _mm512_set1_epi32(63);
    if b < 4 {
        let field = |s| _mm512_and_si512(shift_right(s, 8 * b), six);
        return (field(s0), field(s4));
    }
    let b = b - 4;
    let low = |shift| _mm512_and_si512(shift_right(s8, 8 * b + shift), _mm512_set1_epi32(15));
    // Bits 6 and 7 of a byte become bits 4 and 5.
    let high = |s| _mm512_and_si512(shift_right(s, 8 * b + 2), _mm512_set1_epi32(0x30));
    (_mm512_or_si512(low(0), high(s0)), _mm512_or_si512(low(4), high(s4)))
}
