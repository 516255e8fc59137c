//! IQ2_XXS with the byte permutations of AVX-512 VBMI and the bit matrices of GFNI (Ice Lake, Zen 4 and later): a few
//! instructions look the indices of sixteen rows up at once, and a code and its sign together choose the value.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, store_quad, store_scales};
use super::{BIAS, BLOCK_BYTES};
use ds4_gguf::quant::iq2_xxs_grid::GRID;
use std::arch::x86_64::*;

/// The magnitudes that two bits stand for; the fourth does not occur.
const MAGNITUDES: [u8; 4] = [8, 25, 43, 0];

/// The grid with two bits per magnitude, the first lowest: the lower bytes of the 256 rows, then the upper ones.
static PACKED: [[u8; 64]; 8] = packed();

const fn packed() -> [[u8; 64]; 8] {
    let mut packed = [[0; 64]; 8];
    let mut row = 0;
    while row < 256 {
        let mut k = 0;
        while k < 8 {
            let mut code = 0;
            while MAGNITUDES[code] != GRID[row][k] {
                code += 1;
            }
            packed[k / 4 * 4 + row / 64][row % 64] |= (code as u8) << (2 * (k % 4));
            k += 1;
        }
        row += 1;
    }
    packed
}

/// The 64 bytes of a register, from a rule for byte `i`.
macro_rules! bytes_by {
    ($i:ident => $rule:expr) => {{
        let mut bytes = [0u8; 64];
        let mut $i = 0;
        while $i < 64 {
            bytes[$i] = ($rule) as u8;
            $i += 1;
        }
        bytes
    }};
}
pub(in super::super::super) use bytes_by;

/// The magnitude that the lowest two bits stand for.
pub(in super::super::super) static BY_CODE: [u8; 64] = bytes_by!(i => MAGNITUDES[i % 4]);
/// Where the sign codes of two groups, 32 bits each, begin.
pub(in super::super::super) static SIGN_BITS: [u8; 64] = bytes_by!(i => i % 8 / 4 * 32 + 7 * (i % 4));
/// A matrix over bits: keeps the lower seven, and makes the eighth the parity of these.
pub(in super::super::super) const WITH_PARITY: i64 = 0x0102_0408_1020_407f;

/// For octet `o` of two rows, 32 bits each: where the code of element `i % 4` begins.
static CODE_BITS: [[u8; 64]; 4] = [
    bytes_by!(i => i % 8 / 4 * 32 + 2 * (i % 4)),
    bytes_by!(i => i % 8 / 4 * 32 + 8 + 2 * (i % 4)),
    bytes_by!(i => i % 8 / 4 * 32 + 16 + 2 * (i % 4)),
    bytes_by!(i => i % 8 / 4 * 32 + 24 + 2 * (i % 4)),
];
/// For octet `o` of two rows: two bits before the sign of element `i % 4`, the first bit counting as the 65th.
static BEFORE_SIGN: [[u8; 64]; 4] = [
    bytes_by!(i => (62 + i % 8 / 4 * 32 + i % 4) % 64),
    bytes_by!(i => 6 + i % 8 / 4 * 32 + i % 4),
    bytes_by!(i => 14 + i % 8 / 4 * 32 + i % 4),
    bytes_by!(i => 22 + i % 8 / 4 * 32 + i % 4),
];
/// The biased value that a code and, in bit 2, its sign stand for.
static VALUES: [u8; 64] = bytes_by!(i => {
    let magnitude = MAGNITUDES[i % 4] as i32;
    if i & 4 == 0 { BIAS + magnitude } else { BIAS - magnitude }
});

/// Whether the processor has the instructions this needs beyond those of the AVX-512 set.
pub(in super::super::super) fn is_offered() -> bool {
    is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let grid = Grid::load();
    let sign_bit = _mm512_set1_epi8(4);
    let (values, sign_bits) = (register(&VALUES), register(&SIGN_BITS));
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

                // A byte per octet: eight signs; four codes of two bits each for the first and for the second half.
                let signs = _mm512_multishift_epi64_epi8(sign_bits, upper);
                let signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(WITH_PARITY));
                let halves =
                    [(grid.look_up(indices, 0), signs), (grid.look_up(indices, 4), _mm512_srli_epi64::<4>(signs))];
                for octet in 0..4 {
                    let (code_bits, before_sign) = (register(&CODE_BITS[octet]), register(&BEFORE_SIGN[octet]));
                    for half in 0..2 {
                        let (words, signs) = halves[half];
                        let code = _mm512_multishift_epi64_epi8(code_bits, words);
                        let sign = _mm512_multishift_epi64_epi8(before_sign, signs);
                        // The sign where `sign_bit` has a one, else the code.
                        let choice = _mm512_ternarylogic_epi32::<0xca>(sign_bit, sign, code);
                        store_quad(&mut codes[g], 2 * octet + half, _mm512_permutexvar_epi8(choice, values));
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn register(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The packed grid in registers.
pub(in super::super::super) struct Grid([__m512i; 8]);

impl Grid {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    pub fn load() -> Grid {
        let mut grid = [_mm512_setzero_si512(); 8];
        for i in 0..8 {
            grid[i] = register(&PACKED[i]);
        }
        Grid(grid)
    }

    /// The lower (`part` 0) or upper (`part` 4) bytes of the rows with these 64 indices.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    pub fn look_up(&self, index: __m512i, part: usize) -> __m512i {
        // Seven bits of an index choose a byte in a pair of registers, the eighth the pair.
        let [first, second, third, fourth] = [self.0[part], self.0[part + 1], self.0[part + 2], self.0[part + 3]];
        _mm512_mask_blend_epi8(
            _mm512_movepi8_mask(index),
            _mm512_permutex2var_epi8(first, index, second),
            _mm512_permutex2var_epi8(third, index, fourth),
        )
    }
}
