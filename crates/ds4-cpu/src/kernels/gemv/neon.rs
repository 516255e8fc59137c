//! NEON with the dot-product extension: a register holds four partial sums of one group, or the sums of four. As with AVX2 the
//! first pass leaves scales as floats, and all formats share the second pass.

use super::super::activation::{GROUP, QuantizedRow};
use super::super::format::{iq2_xxs, mxfp4, q4_k};
use super::super::prefetch::prefetch;
use super::partial::{GROUPS, Partial, ROWS};
use super::signs::SIGNS;
use super::{Kernel, PREFETCH, check};
use ds4_gguf::TensorType;
use ds4_gguf::quant::iq2_xxs_grid::GRID;
use std::arch::aarch64::*;
use std::arch::asm;

/// Groups of a block of 256 inputs.
const EIGHT: usize = 8;
/// Groups whose sums fill a register.
const FOUR: usize = 4;

/// The kernels for weights of type `ty`, if it has integer products.
pub(super) fn kernel(ty: TensorType) -> Option<Kernel> {
    let (row, finish): (super::Row, super::Finish) = match ty {
        TensorType::Q8_0 => (q8_0, finish::<false>),
        TensorType::MXFP4 => (mxfp4, finish::<false>),
        TensorType::IQ2_XXS => (iq2_xxs, finish::<false>),
        TensorType::Q2_K => (q2_k, finish::<true>),
        TensorType::Q4_K => (q4_k, finish::<true>),
        _ => return None,
    };
    Some(Kernel::apart(|q, to| to.copy_from_slice(q), row, finish))
}

/// `sum[i]` += dot product of the four numbers in lanes `i` of `w` and `x`. (The standard library's function of this name,
/// `vdotq_s32`, is not stable yet.)
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of the extension that is enabled.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The partial sums of a group of 32.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn group_dot(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
    dot(dot(vdupq_n_s32(0), w[0], x[0]), w[1], x[1])
}

/// Sums of four lanes each become the lanes of one register.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn lanes_added(sums: &[int32x4_t]) -> int32x4_t {
    let &[a, b, c, d] = sums else { unreachable!("four sums") };
    vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))
}

/// The first sixteen bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load(bytes: &[u8]) -> uint8x16_t {
    let bytes = &bytes[..16];
    // SAFETY: sixteen bytes; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// 32 activations of group `group`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn group_of(x: QuantizedRow<'_>, group: usize) -> [int8x16_t; 2] {
    let q = &x.q[group * GROUP..][..GROUP];
    // SAFETY: 32 bytes; loads need no alignment.
    unsafe { [vld1q_s8(q.as_ptr()), vld1q_s8(q.as_ptr().add(16))] }
}

/// The sums of eight sixteens of activations from the `first` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn eight_sums(x: QuantizedRow<'_>, first: usize) -> int16x8_t {
    let sums = &x.sums[first..][..8];
    // SAFETY: eight numbers; the load needs no alignment.
    unsafe { vld1q_s16(sums.as_ptr()) }
}

/// Four sums to their places from group `first` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn put(sums: &mut [i32; GROUPS], first: usize, values: int32x4_t) {
    let to = &mut sums[first..][..FOUR];
    // SAFETY: four numbers; the store needs no alignment.
    unsafe { vst1q_s32(to.as_mut_ptr(), values) };
}

/// The f16 number at the start of `bytes`.
#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    let bits = i16::from_le_bytes([bytes[0], bytes[1]]);
    let number: f32;
    // SAFETY: one instruction on registers, of the basic set.
    unsafe {
        asm!(
            "fcvt {number:s}, {bits:h}",
            number = lateout(vreg) number,
            bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    number
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn q8_0(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = 34;
    let groups = check(weights, x, row, BYTES, 1);
    for first in (0..groups).step_by(FOUR) {
        let blocks = &weights[first * BYTES..groups.min(first + FOUR) * BYTES];
        prefetch(blocks.as_ptr().wrapping_add(PREFETCH), blocks.len());
        let mut sums = [vdupq_n_s32(0); FOUR];
        for (k, block) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            partial.scales[first + k][row] = half(block);
            let w = [load(&block[2..]), load(&block[18..])].map(|w| vreinterpretq_s8_u8(w));
            sums[k] = group_dot(w, group_of(x, first + k));
        }
        put(&mut partial.sums[row], first, lanes_added(&sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn mxfp4(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    /// Doubled values of the codes.
    static VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    const BYTES: usize = mxfp4::BLOCK_BYTES;
    let groups = check(weights, x, row, BYTES, 1);
    // SAFETY: sixteen bytes; the load needs no alignment.
    let values = unsafe { vld1q_s8(VALUES.as_ptr()) };
    for first in (0..groups).step_by(FOUR) {
        let blocks = &weights[first * BYTES..groups.min(first + FOUR) * BYTES];
        prefetch(blocks.as_ptr().wrapping_add(PREFETCH), blocks.len());
        let mut sums = [vdupq_n_s32(0); FOUR];
        for (k, block) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            partial.scales[first + k][row] = mxfp4::scale(block[0]);
            let codes = load(&block[1..]);
            let low = vqtbl1q_s8(values, vandq_u8(codes, vdupq_n_u8(15)));
            let high = vqtbl1q_s8(values, vshrq_n_u8::<4>(codes));
            sums[k] = group_dot([low, high], group_of(x, first + k));
        }
        put(&mut partial.sums[row], first, lanes_added(&sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn iq2_xxs(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = iq2_xxs::BLOCK_BYTES;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let d = half(block);
        let mut sums = [vdupq_n_s32(0); EIGHT];
        for (k, packed) in block[2..].as_chunks::<8>().0.iter().enumerate() {
            let upper = u32::from_le_bytes([packed[4], packed[5], packed[6], packed[7]]);
            partial.scales[index * EIGHT + k][row] = d * (2 * (upper >> 28) + 1) as f32 * 0.125;
            let octet = |o: usize| vcreate_s8(u64::from_le_bytes(GRID[usize::from(packed[o])]));
            let factors = |o: usize| vcreate_s8(SIGNS[(upper >> (7 * o)) as usize & 127]);
            let w = |o: usize| vmulq_s8(vcombine_s8(octet(o), octet(o + 1)), vcombine_s8(factors(o), factors(o + 1)));
            sums[k] = group_dot([w(0), w(2)], group_of(x, index * EIGHT + k));
        }
        put(&mut partial.sums[row], index * EIGHT, lanes_added(&sums[..FOUR]));
        put(&mut partial.sums[row], index * EIGHT + FOUR, lanes_added(&sums[FOUR..]));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn q2_k(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = 84;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let (d, dmin) = (half(&block[80..]), half(&block[82..]));
        let packed = load(block);
        let mins = vshrq_n_u8::<4>(packed);
        for (half, mins) in [vget_low_u8(mins), vget_high_u8(mins)].into_iter().enumerate() {
            let mins = vreinterpretq_s16_u16(vmovl_u8(mins));
            let of_x = eight_sums(x, index * 16 + half * 8);
            let low = vmull_s16(vget_low_s16(mins), vget_low_s16(of_x));
            let sums = vpaddq_s32(low, vmull_high_s16(mins, of_x));
            put(&mut partial.min_sums[row], index * EIGHT + half * FOUR, sums);
        }
        let mut scales = [0; 16];
        // SAFETY: sixteen bytes; the store needs no alignment.
        unsafe { vst1q_u8(scales.as_mut_ptr(), vandq_u8(packed, vdupq_n_u8(15))) };
        let mut sums = [vdupq_n_s32(0); EIGHT];
        for (k, sum) in sums.iter_mut().enumerate() {
            let shift = vdupq_n_s8(-2 * (k as i8 % 4));
            // A code times its scale is at most 45.
            let w = |part: usize| {
                let plane = vshlq_u8(load(&block[16 + 32 * (k / 4) + 16 * part..]), shift);
                let codes = vandq_u8(plane, vdupq_n_u8(3));
                vreinterpretq_s8_u8(vmulq_u8(codes, vdupq_n_u8(scales[2 * k + part])))
            };
            *sum = group_dot([w(0), w(1)], group_of(x, index * EIGHT + k));
            partial.scales[index * EIGHT + k][row] = d;
            partial.min_scales[index * EIGHT + k][row] = dmin;
        }
        put(&mut partial.sums[row], index * EIGHT, lanes_added(&sums[..FOUR]));
        put(&mut partial.sums[row], index * EIGHT + FOUR, lanes_added(&sums[FOUR..]));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn q4_k(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = q4_k::BLOCK_BYTES;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let (d, dmin) = (half(block), half(&block[2..]));
        let (scales, mins) = q4_k::unpack_scales(&block[4..16]);
        let mut sums = [vdupq_n_s32(0); EIGHT];
        for k in 0..EIGHT {
            let group = index * EIGHT + k;
            let w = |part: usize| {
                let codes = load(&block[16 + 32 * (k / 2) + 16 * part..]);
                let codes = if k % 2 == 0 { vandq_u8(codes, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(codes) };
                vreinterpretq_s8_u8(codes)
            };
            sums[k] = group_dot([w(0), w(1)], group_of(x, group));
            partial.scales[group][row] = d * f32::from(scales[k]);
            partial.min_scales[group][row] = dmin * f32::from(mins[k]);
        }
        for half in 0..2 {
            let first = index * EIGHT + half * FOUR;
            put(&mut partial.sums[row], first, lanes_added(&sums[half * FOUR..][..FOUR]));
            put(&mut partial.min_sums[row], first, vpaddlq_s16(eight_sums(x, 2 * first)));
        }
    }
}

const _: () = assert!(GROUPS.is_multiple_of(EIGHT));

/// Four groups of four weight rows, from `first`: a group per register, a row per lane.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn turned(sums: &[[i32; GROUPS]], first: usize) -> [int32x4_t; FOUR] {
    let load = |row: usize| {
        let sums = &sums[row][first..][..FOUR];
        // SAFETY: four numbers; the load needs no alignment.
        unsafe { vld1q_s32(sums.as_ptr()) }
    };
    let wide = |a: int32x4_t| vreinterpretq_s64_s32(a);
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    // Groups 0 and 2 of two rows, in turn; and 1 and 3.
    let (ab, ab2) = (wide(vtrn1q_s32(a, b)), wide(vtrn2q_s32(a, b)));
    let (cd, cd2) = (wide(vtrn1q_s32(c, d)), wide(vtrn2q_s32(c, d)));
    [vtrn1q_s64(ab, cd), vtrn1q_s64(ab2, cd2), vtrn2q_s64(ab, cd), vtrn2q_s64(ab2, cd2)]
        .map(|group| vreinterpretq_s32_s64(group))
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn finish<const MINIMA: bool>(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    assert!(d_x.len() <= GROUPS);
    for quarter in 0..ROWS / FOUR {
        let rows = quarter * FOUR..(quarter + 1) * FOUR;
        let floats = |of: &[f32; ROWS]| {
            let of = &of[rows.clone()];
            // SAFETY: four numbers; the load needs no alignment.
            unsafe { vld1q_f32(of.as_ptr()) }
        };
        let mut total = floats(acc);
        for (part, d_x) in d_x.chunks(FOUR).enumerate() {
            let first = part * FOUR;
            let sums = turned(&partial.sums[rows.clone()], first);
            let min_sums = if MINIMA { turned(&partial.min_sums[rows.clone()], first) } else { sums };
            for (k, d_x) in d_x.iter().enumerate() {
                let scale = vmulq_n_f32(floats(&partial.scales[first + k]), *d_x);
                total = vfmaq_f32(total, vcvtq_f32_s32(sums[k]), scale);
                if MINIMA {
                    let scale = vmulq_n_f32(floats(&partial.min_scales[first + k]), *d_x);
                    total = vfmsq_f32(total, vcvtq_f32_s32(min_sums[k]), scale);
                }
            }
        }
        let to = &mut acc[rows];
        // SAFETY: as for the load.
        unsafe { vst1q_f32(to.as_mut_ptr(), total) };
    }
}
