//! Q2_K with the byte permutations of AVX-512 VBMI: a code and its scale together choose their product.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, high_half, low_half, store_factors, store_quad, store_scales};
use super::super::iq2_xxs::vbmi::bytes_by;
use super::BLOCK_BYTES;
use super::avx512::spread;
use std::arch::x86_64::*;

/// Products of a code and a scale, which share an index of six bits: codes stay where the plane has them, in the first, the second or the
/// third two bits, and the scale has the others.
static PRODUCTS: [[u8; 64]; 3] = [
    bytes_by!(i => (i & 3) * (i >> 2)),
    bytes_by!(i => (i >> 2 & 3) * (i >> 4 << 2 | i & 3)),
    bytes_by!(i => (i >> 4) * (i & 15)),
];

/// Where sixteen bytes of a block are taken from: scales and minima; codes; the last has `d` and `dmin` at its end.
const PIECES: [usize; 6] = [0, 16, 32, 48, 64, 68];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let nibble = _mm512_set1_epi8(15);
    let mut products = [_mm512_setzero_si512(); 3];
    for (register, bytes) in products.iter_mut().zip(&PRODUCTS) {
        // SAFETY: 64 bytes; the load needs no alignment.
        *register = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    }
    let codes = tile.codes.as_chunks_mut::<8>().0;
    let scales = tile.scales.as_chunks_mut::<8>().0;
    let min_scales = tile.min_scales.as_chunks_mut::<8>().0;
    let min_factors = tile.min_factors.as_chunks_mut::<8>().0;
    let groups = codes.iter_mut().zip(scales).zip(min_scales.iter_mut().zip(min_factors));
    for (block, ((codes, scales), (min_scales, min_factors))) in groups.enumerate() {
        let mut pieces = [[_mm512_setzero_si512(); 4]; PIECES.len()];
        for (piece, at) in pieces.iter_mut().zip(PIECES) {
            *piece = columns.words(block * BLOCK_BYTES + at);
        }
        // Each word of the first has the packed scales and minima of two groups, two bytes each.
        let [packed, parts @ .., ends] = &pieces;
        let (d, dmin) = (low_half(ends[3]), high_half(ends[3]));
        for b in 0..8 {
            let mins = _mm512_and_si512(_mm512_srli_epi32::<4>(packed[b / 2]), nibble);
            store_scales(&mut scales[b], d);
            store_scales(&mut min_scales[b], dmin);
            store_factors(&mut min_factors[b], spread(mins, 2 * (b % 2), 2 * (b % 2) + 1));
        }
        for half in 0..2 {
            let (first, last) =
                (_mm512_and_si512(packed[2 * half], nibble), _mm512_and_si512(packed[2 * half + 1], nibble));
            // The scales of planes 0 and 1, and of 2 and 3, where their indices have them.
            let above = _mm512_slli_epi16::<2>(first);
            let around = _mm512_and_si512(_mm512_or_si512(first, above), _mm512_set1_epi8(0x33));
            for sub_block in 0..2 {
                for plane in 0..4 {
                    let of_scales = [above, around, last, last][plane];
                    let scale = everywhere(of_scales, 2 * (plane % 2) + sub_block);
                    let (table, code) = [(0, 0x03), (1, 0x0c), (2, 0x30), (2, 0x30)][plane];
                    for (j, &words) in parts[2 * half + sub_block].iter().enumerate() {
                        // Bits that come from the next byte are above the six that count.
                        let words = if plane == 3 { _mm512_srli_epi16::<2>(words) } else { words };
                        // The code where the mask has ones, else the scale.
                        let index = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(code), words, scale);
                        let value = _mm512_permutexvar_epi8(index, products[table]);
                        store_quad(&mut codes[4 * half + plane], 4 * sub_block + j, value);
                    }
                }
            }
        }
    }
}

/// Byte `byte` of every 32-bit lane in all of its bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn everywhere(words: __m512i, byte: usize) -> __m512i {
    let lane = |word: i32| (byte as i32 + 4 * word) * 0x0101_0101;
    _mm512_shuffle_epi8(words, _mm512_set4_epi32(lane(3), lane(2), lane(1), lane(0)))
}
