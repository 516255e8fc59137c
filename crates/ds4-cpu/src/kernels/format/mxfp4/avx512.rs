//! MXFP4 with AVX-512.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, store_quad, store_scales};
use super::{BIAS, BLOCK_BYTES, biased_value};
use std::arch::x86_64::*;

/// [`biased_value`] of the sixteen codes.
pub(in super::super::super) static BIASED_VALUES: [u8; 16] = biased_values();

const fn biased_values() -> [u8; 16] {
    let mut values = [0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = biased_value(code as u8);
        code += 1;
    }
    values
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    // SAFETY: sixteen bytes, unaligned.
    let values = unsafe { _mm_loadu_si128(BIASED_VALUES.as_ptr().cast()) };
    let values = _mm512_broadcast_i32x4(_mm_sub_epi8(values, _mm_set1_epi8(BIAS as i8 - tile.bias as i8)));
    let nibble = _mm512_set1_epi8(15);
    for (group, (codes, scales)) in tile.codes.iter_mut().zip(tile.scales).enumerate() {
        let at = group * BLOCK_BYTES;
        store_scales(scales, scale(columns.bytes(at)));
        for (j, &words) in columns.words(at + 1).iter().enumerate() {
            let low = _mm512_and_si512(words, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi32::<4>(words), nibble);
            store_quad(codes, j, _mm512_shuffle_epi8(values, low));
            store_quad(codes, 4 + j, _mm512_shuffle_epi8(values, high));
        }
    }
}

/// [`super::scale`] of sixteen exponents.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(in super::super::super) fn scale(e: __m512i) -> __m512 {
    let bits = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    // Subnormal for 0 and 1: bit 21 or 22.
    let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let bits = _mm512_mask_mov_epi32(bits, _mm512_cmple_epu32_mask(e, _mm512_set1_epi32(1)), small);
    _mm512_castsi512_ps(bits)
}
