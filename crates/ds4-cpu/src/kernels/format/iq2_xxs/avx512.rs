//! IQ2_XXS with AVX-512: the grid, at two bits per magnitude, fits eight registers.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, shift_right, store_quad, store_scales};
use super::{BIAS, BLOCK_BYTES};
use ds4_gguf::quant::iq2_xxs_grid::GRID;
use std::arch::x86_64::*;

/// The grid with two bits per magnitude, the first element lowest: 0 stands for 8, 1 for 25, 2 for 43.
static PACKED_GRID: [u16; 256] = pack_grid();

const fn pack_grid() -> [u16; 256] {
    let mut packed = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut k = 0;
        while k < 8 {
            let code = match GRID[index][k] {
                8 => 0,
                25 => 1,
                _ => 2,
            };
            packed[index] |= code << (2 * k);
            k += 1;
        }
        index += 1;
    }
    packed
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let grid: [__m512i; 8] = std::array::from_fn(|i| {
        let part: &[u16; 32] = &PACKED_GRID.as_chunks().0[i];
        // SAFETY: sixty-four bytes, unaligned.
        unsafe { _mm512_loadu_si512(part.as_ptr().cast()) }
    });
    let low_bytes = _mm512_set1_epi16(0xff);
    // 43 plus the magnitude of the code in the lower two bits, then minus it.
    let values = _mm512_broadcast_i32x4(_mm_setr_epi8(51, 68, 86, 43, 35, 18, 0, 43, 0, 0, 0, 0, 0, 0, 0, 0));
    let values = _mm512_sub_epi8(values, _mm512_set1_epi8(BIAS as i8 - tile.bias as i8));
    let codes = tile.codes.as_chunks_mut::<8>().0;
    let scales = tile.scales.as_chunks_mut::<8>().0;
    for (block, (codes, scales)) in codes.iter_mut().zip(scales).enumerate() {
        let at = block * BLOCK_BYTES;
        let d = columns.half(at);
        for pair in 0..4 {
            let [indices, upper, indices2, upper2] = columns.words(at + 2 + 16 * pair);
            for (g, indices, upper) in [(2 * pair, indices, upper), (2 * pair + 1, indices2, upper2)] {
                let s = _mm512_srli_epi32::<28>(upper);
                let odd = _mm512_add_epi32(_mm512_add_epi32(s, s), _mm512_set1_epi32(1));
                let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(odd));
                store_scales(&mut scales[g], _mm512_mul_ps(scale, _mm512_set1_ps(0.125)));

                let signs = sign_bytes(upper);
                // The grid rows of octets 0 and 2, and of 1 and 3; then of all four octets the lower and the upper byte.
                let (even, odd) = (look_up(&grid, indices, 0), look_up(&grid, indices, 1));
                let lower = _mm512_ternarylogic_epi32::<0xca>(low_bytes, even, _mm512_slli_epi16::<8>(odd));
                let upper = _mm512_ternarylogic_epi32::<0xca>(low_bytes, _mm512_srli_epi16::<8>(even), odd);
                for element in 0..8 {
                    let bytes = if element < 4 { lower } else { upper };
                    let code = _mm512_srlv_epi16(bytes, _mm512_set1_epi16(2 * (element % 4)));
                    // Bit 2 takes the sign.
                    let sign = if element < 2 {
                        _mm512_sllv_epi16(signs, _mm512_set1_epi16(2 - element))
                    } else {
                        _mm512_srlv_epi16(signs, _mm512_set1_epi16(element - 2))
                    };
                    let choice = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(4), sign, code);
                    let value = _mm512_shuffle_epi8(values, _mm512_and_si512(choice, _mm512_set1_epi8(7)));
                    store_quad(&mut codes[g], element as usize, value);
                }
            }
        }
    }
}

/// Grid rows of the bytes `first` and `first + 2` of every 32-bit lane, in its two halves.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn look_up(grid: &[__m512i; 8], indices: __m512i, first: i32) -> __m512i {
    let base = 0x8002_8000u32 as i32 + 0x0001_0001 * first;
    let spread = _mm512_set4_epi32(base + 0x000c_000c, base + 0x0008_0008, base + 0x0004_0004, base);
    let index = _mm512_shuffle_epi8(indices, spread);
    let from = |i: usize| _mm512_permutex2var_epi16(grid[2 * i], index, grid[2 * i + 1]);
    let bit6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
    let bit7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    let lower = _mm512_mask_mov_epi16(from(0), bit6, from(1));
    let upper = _mm512_mask_mov_epi16(from(2), bit6, from(3));
    _mm512_mask_mov_epi16(lower, bit7, upper)
}

/// The four 7-bit sign codes of every 32-bit lane as bytes whose top bit makes the number of ones even.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn sign_bytes(upper: __m512i) -> __m512i {
    let field = |moved: __m512i, byte: u32| _mm512_and_si512(moved, _mm512_set1_epi32(0x7f << (8 * byte)));
    let codes = _mm512_or_si512(
        _mm512_or_si512(field(upper, 0), field(_mm512_slli_epi32::<1>(upper), 1)),
        _mm512_or_si512(field(_mm512_slli_epi32::<2>(upper), 2), field(_mm512_slli_epi32::<3>(upper), 3)),
    );
    let folded = _mm512_xor_si512(codes, shift_right(codes, 4));
    let nibble = _mm512_and_si512(folded, _mm512_set1_epi8(15));
    let odd = _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
    _mm512_or_si512(codes, _mm512_shuffle_epi8(_mm512_broadcast_i32x4(odd), nibble))
}
