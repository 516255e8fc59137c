//! Q2_K with AVX-512.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, high_half, low_half, shift_right, store_factors, store_quad, store_scales};
use super::BLOCK_BYTES;
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let nibble = _mm512_set1_epi8(15);
    let two_bits = _mm512_set1_epi8(3);
    let codes = tile.codes.as_chunks_mut::<8>().0;
    let scales = tile.scales.as_chunks_mut::<8>().0;
    let min_scales = tile.min_scales.as_chunks_mut::<8>().0;
    let min_factors = tile.min_factors.as_chunks_mut::<8>().0;
    let groups = codes.iter_mut().zip(scales).zip(min_scales.iter_mut().zip(min_factors));
    for (block, ((codes, scales), (min_scales, min_factors))) in groups.enumerate() {
        let at = block * BLOCK_BYTES;
        let halves = columns.word(at + 80);
        let (d, dmin) = (low_half(halves), high_half(halves));
        // Each word has the packed scales and minima of two groups, two bytes each.
        let packed = columns.words(at);
        for b in 0..8 {
            let mins = _mm512_and_si512(_mm512_srli_epi32::<4>(packed[b / 2]), nibble);
            store_scales(&mut scales[b], d);
            store_scales(&mut min_scales[b], dmin);
            store_factors(&mut min_factors[b], spread(mins, 2 * (b % 2), 2 * (b % 2) + 1));
        }
        for piece in 0..4 {
            // Sixteen bytes hold one of the two sub-blocks of four groups.
            let (first_group, sub_block) = (piece / 2 * 4, piece % 2);
            let words = columns.words(at + 16 + 16 * piece);
            for plane in 0..4 {
                let b = first_group + plane;
                let byte = 2 * (b % 2) + sub_block;
                let scale = spread(_mm512_and_si512(packed[b / 2], nibble), byte, byte);
                for (j, &words) in words.iter().enumerate() {
                    let code = _mm512_and_si512(shift_right(words, 2 * plane as u32), two_bits);
                    // Products are at most 45, so the two bytes of a 16-bit lane do not mix.
                    store_quad(&mut codes[b], 4 * sub_block + j, _mm512_mullo_epi16(code, scale));
                }
            }
        }
    }
}

/// Bytes `first` and `second` of every 32-bit lane as its two 16-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn spread(words: __m512i, first: usize, second: usize) -> __m512i {
    // Index bytes of the four words of a 128-bit lane; 0x80 gives a zero.
    let index = 0x8000_8000u32 | first as u32 | (second as u32) << 16;
    let lane = |word: i32| index as i32 + word * 0x0004_0004;
    _mm512_shuffle_epi8(words, _mm512_set4_epi32(lane(3), lane(2), lane(1), lane(0)))
}
