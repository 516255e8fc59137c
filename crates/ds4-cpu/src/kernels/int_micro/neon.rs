//! NEON with the dot-product extension: a register holds the 32-bit sums of four weight rows.

#![allow(clippy::needless_range_loop)]

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use super::halves::{HALF, multiply_by_halves};
use std::arch::aarch64::*;
use std::arch::asm;

multiply_by_halves!("neon,dotprod");

pub(super) type Ints = [int32x4_t; 2];
pub(super) type Floats = [float32x4_t; 2];
type Weights = [int8x16_t; 2];
type Quad = int8x16_t;

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn start(value: i32) -> Ints {
    [vdupq_n_s32(value); 2]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn start_floats() -> Floats {
    [vdupq_n_f32(0.0); 2]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn ints_to_floats(ints: Ints) -> Floats {
    [vcvtq_f32_s32(ints[0]), vcvtq_f32_s32(ints[1])]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn scaled(floats: Floats, by: f32) -> Floats {
    [vmulq_n_f32(floats[0], by), vmulq_n_f32(floats[1], by)]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn add_product(a: Floats, b: Floats, total: Floats) -> Floats {
    [vfmaq_f32(total[0], a[0], b[0]), vfmaq_f32(total[1], a[1], b[1])]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn subtract_product(a: Floats, b: Floats, total: Floats) -> Floats {
    [vfmsq_f32(total[0], a[0], b[0]), vfmsq_f32(total[1], a[1], b[1])]
}

/// # Safety
/// Eight floats can be read.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn load(from: *const f32) -> Floats {
    // SAFETY: the caller's promise.
    unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
}

/// # Safety
/// Eight floats can be written.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn store(to: *mut f32, floats: Floats) {
    // SAFETY: the caller's promise.
    unsafe {
        vst1q_f32(to, floats[0]);
        vst1q_f32(to.add(4), floats[1]);
    }
}

/// Signed codes: those that use all eight bits lose their bias of 128, the others fit seven bits with theirs.
///
/// # Safety
/// 32 codes can be read.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn weights<const SIGNED: bool>(from: *const u8) -> Weights {
    let top_bits = vdupq_n_u8(if SIGNED { 0x80 } else { 0 });
    // SAFETY: the caller's promise.
    let (first, second) = unsafe { (vld1q_u8(from), vld1q_u8(from.add(16))) };
    [vreinterpretq_s8_u8(veorq_u8(first, top_bits)), vreinterpretq_s8_u8(veorq_u8(second, top_bits))]
}

/// # Safety
/// Four words can be read.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn quad(from: *const i32) -> Quad {
    // SAFETY: the caller's promise.
    vreinterpretq_s8_s32(unsafe { vld1q_s32(from) })
}

/// # Safety
/// The processor offers the dot-product extension.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn dot<const R: usize, const SIGNED: bool>(sum: Ints, w: Weights, x: Quad) -> Ints {
    // SAFETY: the caller's promise.
    unsafe { [dot_lane::<R>(sum[0], w[0], x), dot_lane::<R>(sum[1], w[1], x)] }
}

/// # Safety
/// Eight pairs of factors can be read.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn min_sums(factors: *const i32, sums: i32) -> Ints {
    let sum = |at: usize| {
        // SAFETY: the caller's promise: eight pairs of 16-bit factors.
        let pairs = unsafe { vld2_s16(factors.add(at).cast()) };
        vmlal_n_s16(vmull_n_s16(pairs.0, sums as i16), pairs.1, (sums >> 16) as i16)
    };
    [sum(0), sum(4)]
}

/// `acc[i]` += dot product of the four numbers in `w`'s 32-bit lane `i` and those in `x`'s lane `LANE`. (The standard
/// library's function of this name, `vdotq_laneq_s32`, is not stable yet.)
///
/// # Safety
/// The processor offers the dot-product extension.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn dot_lane<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
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
