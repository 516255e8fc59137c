//! IQ2_XXS with the byte permutations of AVX-512 VBMI and the bit matrices of GFNI (Ice Lake, Zen 4 and later): a few
//! instructions look 64 indices up at once, and the code of an element and its sign together choose the value.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, store_quad, store_scales};
use super::{BIAS, BLOCK_BYTES};
use ds4_gguf::quant::iq2_xxs_grid::GRID;
use std::arch::x86_64::*;

/// The magnitudes that two bits stand for; the fourth does not occur.
const MAGNITUDES: [u8; 4] = [8, 25, 43, 0];

/// Where the code of element `e`, of the first or last four, stands in a byte of [`PACKED`].
const PLACE: [u32; 4] = [0, 2, 4, 6];
/// A byte permutation looks at six bits: the codes and the signs of two elements, which therefore share an index. The first
/// two of four elements find their codes where they stand, the others after all moved down by as much.
const MOVE: u32 = 2;
/// Where an index has the signs of its two elements: beside the codes of the first two, and below those of the others.
const SIGNS: [u32; 2] = [4, 0];

/// The grid with two bits per magnitude, at [`PLACE`]: of the first four elements of the 256 rows, then of the others.
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
            packed[k / 4 * 4 + row / 64][row % 64] |= (code as u8) << PLACE[k % 4];
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

/// For element `e` of four: the biased value that the code and the sign of an index stand for.
static VALUES: [[u8; 64]; 4] = [
    values(SIGNS[0], PLACE[0]),
    values(SIGNS[0] + 1, PLACE[1]),
    values(SIGNS[1], PLACE[2] - MOVE),
    values(SIGNS[1] + 1, PLACE[3] - MOVE),
];

const fn values(sign: u32, code: u32) -> [u8; 64] {
    bytes_by!(i => {
        let magnitude = MAGNITUDES[i >> code & 3] as i32;
        if i >> sign & 1 == 0 { BIAS + magnitude } else { BIAS - magnitude }
    })
}

/// Where the sign codes of two groups, 32 bits each, begin.
static SIGN_BITS: [u8; 64] = bytes_by!(i => i % 8 / 4 * 32 + 7 * (i % 4));
/// A matrix over bits: from the seven bits of a sign code the signs of the eight elements, the last of which is the parity of
/// the others. The signs of elements 0 to 3 come to lie where [`SIGNS`] says, those of the last four higher by [`MOVE`].
const ALL_SIGNS: i64 = {
    let mut rows = [0u8; 8];
    let mut e = 0;
    while e < 8 {
        let bit = SIGNS[e % 4 / 2] as usize + e % 2 + e / 4 * MOVE as usize;
        // The matrix begins with the row of the highest bit.
        rows[7 - bit] = if e == 7 { 0x7f } else { 1 << e };
        e += 1;
    }
    i64::from_le_bytes(rows)
};

/// Whether the processor has the instructions this needs beyond those of the AVX-512 set.
pub(in super::super::super) fn is_offered() -> bool {
    is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("gfni")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    let decoder = Decoder::load(tile.bias);
    let eighths = eighths();
    let codes = tile.codes.as_chunks_mut::<8>().0;
    let scales = tile.scales.as_chunks_mut::<8>().0;
    for (block, (codes, scales)) in codes.iter_mut().zip(scales).enumerate() {
        let at = block * BLOCK_BYTES;
        let d = columns.half(at);
        for pair in 0..4 {
            let [indices, upper, indices2, upper2] = columns.words(at + 2 + 16 * pair);
            for (g, indices, upper) in [(2 * pair, indices, upper), (2 * pair + 1, indices2, upper2)] {
                let s = _mm512_srli_epi32::<28>(upper);
                store_scales(&mut scales[g], _mm512_mul_ps(d, _mm512_permutexvar_ps(s, eighths)));
                let values = decoder.values(indices, decoder.signs(upper));
                for element in 0..8 {
                    store_quad(&mut codes[g], element, values[element]);
                }
            }
        }
    }
}

/// `(2 s + 1) / 8` of the sixteen scales `s` of a group.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in super::super::super) fn eighths() -> __m512 {
    _mm512_setr_ps(
        0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875, 2.125, 2.375, 2.625, 2.875, 3.125, 3.375, 3.625, 3.875,
    )
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn register(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The tables, in registers.
pub(in super::super::super) struct Decoder {
    grid: [__m512i; 8],
    sign_bits: __m512i,
    values: [__m512i; 4],
}

/// What stands for the values of 64 octets.
#[derive(Clone, Copy)]
struct Codes {
    /// A byte of [`PACKED`] of each octet: the codes of its first four elements, and those of the others.
    halves: [__m512i; 2],
    /// The signs of each octet.
    signs: __m512i,
}

impl Decoder {
    /// For values to which `bias`, at most [`BIAS`], is added.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    pub fn load(bias: u8) -> Decoder {
        let (mut grid, mut values) = ([_mm512_setzero_si512(); 8], [_mm512_setzero_si512(); 4]);
        for i in 0..8 {
            grid[i] = register(&PACKED[i]);
        }
        for e in 0..4 {
            values[e] = _mm512_sub_epi8(register(&VALUES[e]), _mm512_set1_epi8(BIAS as i8 - bias as i8));
        }
        Decoder { grid, sign_bits: register(&SIGN_BITS), values }
    }

    /// A byte with the eight signs of each octet of sixteen groups, from the words with their sign codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    pub fn signs(&self, words: __m512i) -> __m512i {
        let codes = _mm512_multishift_epi64_epi8(self.sign_bits, words);
        _mm512_gf2p8affine_epi64_epi8::<0>(codes, _mm512_set1_epi64(ALL_SIGNS))
    }

    /// The values, the bias added, of 64 octets with these indices and signs: the first elements of all, then the second
    /// ones, and so on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    pub fn values(&self, indices: __m512i, signs: __m512i) -> [__m512i; 8] {
        self.values_of(self.codes(indices, signs))
    }

    /// The codes of 64 octets with these indices and signs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn codes(&self, indices: __m512i, signs: __m512i) -> Codes {
        // Six bits of an index choose a byte in a register, the other two the register. Intel's processors split a permutation of two
        // registers in three operations; one that merges under a mask is one.
        let bit7 = _mm512_movepi8_mask(indices);
        let bit6 = _mm512_movepi8_mask(_mm512_add_epi8(indices, indices));
        let both = bit6 & bit7;
        let mut halves = [_mm512_setzero_si512(); 2];
        for half in 0..2 {
            let grid = &self.grid[4 * half..];
            let codes = _mm512_permutexvar_epi8(indices, grid[0]);
            let codes = _mm512_mask_permutexvar_epi8(codes, bit6, indices, grid[1]);
            let codes = _mm512_mask_permutexvar_epi8(codes, bit7, indices, grid[2]);
            halves[half] = _mm512_mask_permutexvar_epi8(codes, both, indices, grid[3]);
        }
        Codes { halves, signs }
    }

    /// As [`values`](Self::values), of the octets with these codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn values_of(&self, codes: Codes) -> [__m512i; 8] {
        let mut values = [_mm512_setzero_si512(); 8];
        for half in 0..2 {
            let signs = if half == 0 { codes.signs } else { _mm512_srli_epi16::<MOVE>(codes.signs) };
            for pair in 0..2 {
                // Bits that come from the next byte are above the six that count.
                let codes = if pair == 0 { codes.halves[half] } else { _mm512_srli_epi16::<MOVE>(codes.halves[half]) };
                // The signs where the mask has ones, else the codes.
                let choice = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(3 << SIGNS[pair]), signs, codes);
                for e in [2 * pair, 2 * pair + 1] {
                    values[4 * half + e] = _mm512_permutexvar_epi8(choice, self.values[e]);
                }
            }
        }
        values
    }
}
