//! NEON with products of matrices of bytes: an instruction multiplies eight inputs of two weight rows with those of two
//! activation rows. Scales and minima are as with dot products.

#![allow(clippy::needless_range_loop)] // Arrays of registers, whose numbers are those of rows.

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use super::halves::HALF;
use super::neon::{Floats, add_product, ints_to_floats, load, min_sums, scaled, store, subtract_product};
use std::arch::aarch64::*;
use std::arch::asm;

/// Activation rows of a block; those beyond the last count for nothing.
pub(super) const MOST_ROWS: usize = 4;
/// Pairs of weight rows done together.
const PAIRS: usize = HALF / 2;

/// `sum` += the product of two rows of eight unsigned codes and two rows of eight signed ones: lane `2 i + j` is that of the
/// `i`-th row of `w` and the `j`-th of `x`. (The standard library's function, `vusmmlaq_s32`, is not stable yet.)
///
/// # Safety
/// The processor offers the extension.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
unsafe fn matrix_product(mut sum: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the caller's promise says exists.
    unsafe {
        asm!(
            "usmmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// See [`super::Loop::multiply`].
///
/// # Safety
/// The lengths are those that `super::Loop::multiply` checks, and the tiles have their quads in pairs.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn multiply(tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
    for (t, tile) in tiles.iter().enumerate() {
        for half in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                match (acc.len() > 2, tile.minima().is_some()) {
                    (false, false) => groups::<1, false>(tile, t, half, x, acc),
                    (false, true) => groups::<1, true>(tile, t, half, x, acc),
                    (true, false) => groups::<2, false>(tile, t, half, x, acc),
                    (true, true) => groups::<2, true>(tile, t, half, x, acc),
                }
            }
        }
    }
}

/// Eight weight rows, of half `half` of tile `t`, times `P` pairs of activation rows.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline]
unsafe fn groups<const P: usize, const MINIMA: bool>(
    tile: &Tile,
    t: usize,
    half: usize,
    x: Block<'_>,
    acc: &mut [Sums],
) {
    assert!(x.rows == MOST_ROWS && acc.len() <= 2 * P && P <= MOST_ROWS / 2 && half < 2);
    let at = half * HALF;
    // Offsets of this half within groups of sixteen rows.
    let codes = tile.codes().as_ptr().cast::<u8>().wrapping_add(at * 8);
    let scales = tile.scales().as_ptr().cast::<f32>().wrapping_add(at);
    let (factors, min_scales) = match tile.minima() {
        Some(m) => {
            (m.factors.as_ptr().cast::<i32>().wrapping_add(at), m.scales.as_ptr().cast::<f32>().wrapping_add(at))
        }
        None => (std::ptr::null(), std::ptr::null()),
    };
    // SAFETY: group `g` of every array: the block has `WORDS` words for each of four rows, the tile `GROUP_CODES` codes and
    // sixteen of each scale (and of each factor pair where MINIMA), of which eight are used from `at`, 0 or 8; `multiply`
    // checked. The processor has the instructions.
    unsafe {
        let mut total: [[Floats; 2]; P] = [[[vdupq_n_f32(0.0); 2]; 2]; P];
        for r in 0..acc.len() {
            total[r / 2][r % 2] = load(acc[r][t].as_ptr().add(at));
        }
        for g in 0..tile.codes().len() {
            let x = x.words.as_ptr().add(g * WORDS * MOST_ROWS);
            let mut sum = [[vdupq_n_s32(0); PAIRS]; P];
            for p in 0..P {
                // What the bias of the codes adds, negated, of both rows.
                let start = x.add((QUADS + 1) * MOST_ROWS + 2 * p);
                sum[p] = [vreinterpretq_s32_s64(vdupq_n_s64(start.cast::<i64>().read_unaligned())); PAIRS];
            }
            for q in 0..QUADS / 2 {
                let w = codes.add(g * GROUP_CODES + q * ROWS * 8);
                let w = [vld1q_u8(w), vld1q_u8(w.add(16)), vld1q_u8(w.add(32)), vld1q_u8(w.add(48))];
                for p in 0..P {
                    let x = vreinterpretq_s8_s32(vld1q_s32(x.add(q * 2 * MOST_ROWS + 4 * p)));
                    for i in 0..PAIRS {
                        sum[p][i] = matrix_product(sum[p][i], w[i], x);
                    }
                }
            }
            let scale = load(scales.add(g * ROWS));
            for p in 0..P {
                let [a, b, c, d] = sum[p];
                let of_row = [[vuzp1q_s32(a, b), vuzp1q_s32(c, d)], [vuzp2q_s32(a, b), vuzp2q_s32(c, d)]];
                for r in 0..2 {
                    let d = *x.add(QUADS * MOST_ROWS + 2 * p + r).cast::<f32>();
                    total[p][r] = add_product(ints_to_floats(of_row[r]), scaled(scale, d), total[p][r]);
                }
            }
            if MINIMA {
                let scale = load(min_scales.add(g * ROWS));
                for p in 0..P {
                    for r in 0..2 {
                        let d = *x.add(QUADS * MOST_ROWS + 2 * p + r).cast::<f32>();
                        let sum = min_sums(factors.add(g * ROWS), *x.add((QUADS + 2) * MOST_ROWS + 2 * p + r));
                        total[p][r] = subtract_product(ints_to_floats(sum), scaled(scale, d), total[p][r]);
                    }
                }
            }
        }
        for r in 0..acc.len() {
            store(acc[r][t].as_mut_ptr().add(at), total[r / 2][r % 2]);
        }
    }
}
