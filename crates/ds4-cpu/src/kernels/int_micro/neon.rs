//! NEON with the dot-product extension: a register holds the 32-bit sums of four weight rows; a tile is done in
//! two halves of eight.

use super::super::activation::{GROUP, QuantizedRow};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use std::arch::aarch64::*;
use std::arch::asm;

/// Activation rows that fit the thirty-two registers beside the rest.
const X_ROWS: usize = 4;
/// Weight rows done together, and per register.
const HALF: usize = 8;
const LANES: usize = 4;

/// See [`super::multiply`].
///
/// # Safety
/// The lengths are those that `super::multiply` checks.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    for (x, acc) in x.chunks(X_ROWS).zip(acc.chunks_mut(X_ROWS)) {
        // SAFETY: the caller's promise.
        unsafe {
            match x.len() {
                1 => rows::<1>(tile, x, acc),
                2 => rows::<2>(tile, x, acc),
                3 => rows::<3>(tile, x, acc),
                _ => rows::<4>(tile, x, acc),
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn rows<const N: usize>(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    // Signed products: Q8_0's codes get their sign back; all others fit seven bits with their bias.
    let full_range = tile.bias == 128;
    for half in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            match (tile.minima().is_some(), full_range) {
                (false, false) => groups::<N, false, false>(tile, half, x, acc),
                (false, true) => groups::<N, false, true>(tile, half, x, acc),
                (true, _) => groups::<N, true, false>(tile, half, x, acc),
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn groups<const N: usize, const MINIMA: bool, const SIGNED: bool>(
    tile: &Tile,
    half: usize,
    x: &[QuantizedRow<'_>],
    acc: &mut [[f32; ROWS]],
) {
    assert!(x.len() == N && acc.len() == N && half < 2);
    let n_groups = tile.codes().len();
    let at = half * HALF;
    // Offsets of this half within groups of sixteen rows.
    let codes = tile.codes().as_ptr().cast::<u8>().wrapping_add(at * 4);
    let scales = tile.scales().as_ptr().cast::<f32>().wrapping_add(at);
    let (factors, min_scales) = match tile.minima() {
        Some(m) => {
            (m.factors.as_ptr().cast::<i16>().wrapping_add(2 * at), m.scales.as_ptr().cast::<f32>().wrapping_add(at))
        }
        None => (std::ptr::null(), std::ptr::null()),
    };
    let top_bits = vdupq_n_u8(if SIGNED { 0x80 } else { 0 });
    let bias = if SIGNED { 0 } else { tile.bias };
    let mut total = [[vdupq_n_f32(0.0); HALF / LANES]; N];
    for (total, acc) in total.iter_mut().zip(acc.iter()) {
        for (i, total) in total.iter_mut().enumerate() {
            // SAFETY: four of the sixteen floats from `at + 4 i`, at most 12.
            *total = unsafe { vld1q_f32(acc.as_ptr().add(at + i * LANES)) };
        }
    }
    for g in 0..n_groups {
        let mut sum = [[vdupq_n_s32(0); HALF / LANES]; N];
        for (sum, x) in sum.iter_mut().zip(x) {
            let of_group = i32::from(x.sums[2 * g]) + i32::from(x.sums[2 * g + 1]);
            *sum = [vdupq_n_s32(-bias * of_group); HALF / LANES];
        }
        for part in 0..2 {
            let mut q = [vdupq_n_s8(0); N];
            for (q, x) in q.iter_mut().zip(x) {
                // SAFETY: there are 32 codes per group, read in two parts of sixteen.
                *q = unsafe { vld1q_s8(x.q.as_ptr().add(g * GROUP + part * 16)) };
            }
            let mut quads = |lane: usize, dot: unsafe fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t| {
                for i in 0..HALF / LANES {
                    let quad = part * 4 + lane;
                    // SAFETY: the tile has eight quads of sixteen rows of four codes per group; this register's
                    // four rows begin at byte `16 i` of this half of the quad.
                    let w = unsafe { vld1q_u8(codes.add(g * GROUP_CODES + quad * 64 + i * 16)) };
                    let w = vreinterpretq_s8_u8(veorq_u8(w, top_bits));
                    for r in 0..N {
                        // SAFETY: this function is compiled for, and entered only with, the dot-product extension.
                        sum[r][i] = unsafe { dot(sum[r][i], w, q[r]) };
                    }
                }
            };
            quads(0, dot_lane::<0>);
            quads(1, dot_lane::<1>);
            quads(2, dot_lane::<2>);
            quads(3, dot_lane::<3>);
        }
        for i in 0..HALF / LANES {
            // SAFETY: the tile has sixteen scales per group.
            let scale = unsafe { vld1q_f32(scales.add(g * ROWS + i * LANES)) };
            for r in 0..N {
                total[r][i] = vfmaq_f32(total[r][i], vcvtq_f32_s32(sum[r][i]), vmulq_n_f32(scale, x[r].d[g]));
            }
            if MINIMA {
                // SAFETY: the tile has sixteen pairs of factors and sixteen scales of minima per group.
                let (factors, scale) = unsafe {
                    (vld2_s16(factors.add((g * ROWS + i * LANES) * 2)), vld1q_f32(min_scales.add(g * ROWS + i * LANES)))
                };
                for r in 0..N {
                    let sum = vmull_n_s16(factors.0, x[r].sums[2 * g]);
                    let sum = vmlal_n_s16(sum, factors.1, x[r].sums[2 * g + 1]);
                    total[r][i] = vfmsq_f32(total[r][i], vcvtq_f32_s32(sum), vmulq_n_f32(scale, x[r].d[g]));
                }
            }
        }
    }
    for (total, acc) in total.iter().zip(acc.iter_mut()) {
        for (i, &total) in total.iter().enumerate() {
            // SAFETY: as for the load.
            unsafe { vst1q_f32(acc.as_mut_ptr().add(at + i * LANES), total) };
        }
    }
}

/// `acc[i]` += dot product of the four numbers in `w`'s 32-bit lane `i` and those in `x`'s lane `LANE`. (The standard
/// library's function of this name, `vdotq_laneq_s32`, is not stable yet.)
///
/// # Safety
/// The processor offers the dot-product extension.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn dot_lane<const LANE: u32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the caller's promise says exists.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}
