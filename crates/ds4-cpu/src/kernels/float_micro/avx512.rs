//! AVX-512: a register is the sixteen accumulators of one sum.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::{Float, LANES, W_ROWS};
use std::arch::x86_64::*;

/// See [`super::multiply`].
///
/// # Safety
/// The lengths are those that `super::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn multiply(ty: Float, w: &[&[u8]], x: &[&[f32]], out: &mut [[f32; W_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Float::F32 => with_load::<F32>(w, x, out),
            Float::F16 => with_load::<F16>(w, x, out),
            Float::BF16 => with_load::<BF16>(w, x, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn with_load<L: Load>(w: &[&[u8]], x: &[&[f32]], out: &mut [[f32; W_ROWS]]) {
    // SAFETY: the caller's promise. Rows beyond the last repeat it; their sums are dropped.
    unsafe {
        match x.len() {
            1 => tile::<L, 8, 1>(w, x, out, 0),
            2 => tile::<L, 8, 2>(w, x, out, 0),
            n => {
                for first in (0..w.len()).step_by(4) {
                    match n {
                        3 => tile::<L, 4, 3>(w, x, out, first),
                        4 => tile::<L, 4, 4>(w, x, out, first),
                        5 => tile::<L, 4, 5>(w, x, out, first),
                        _ => tile::<L, 4, 6>(w, x, out, first),
                    }
                }
            }
        }
    }
}

/// Weight rows `first..first + W` times all `N` activation rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn tile<L: Load, const W: usize, const N: usize>(
    w: &[&[u8]],
    x: &[&[f32]],
    out: &mut [[f32; W_ROWS]],
    first: usize,
) {
    assert!(x.len() == N && out.len() == N && first < w.len());
    let cols = x[0].len();
    let used = (w.len() - first).min(W);
    let w: [*const u8; W] = std::array::from_fn(|o| w[first + o.min(used - 1)].as_ptr());
    let x: [*const f32; N] = std::array::from_fn(|r| x[r].as_ptr());
    let mut acc = [[_mm512_setzero_ps(); W]; N];
    let mut add = |at: usize, mask: __mmask16| {
        // SAFETY: every row has `cols` numbers, of which `at` and the following are read where `mask` has a one.
        unsafe {
            let mut ws = [_mm512_setzero_ps(); W];
            for o in 0..W {
                ws[o] = L::load(w[o], at, mask);
            }
            for r in 0..N {
                let x = _mm512_maskz_loadu_ps(mask, x[r].add(at));
                for o in 0..W {
                    acc[r][o] = _mm512_fmadd_ps(ws[o], x, acc[r][o]);
                }
            }
        }
    };
    let whole = cols / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        add(at, 0xffff);
    }
    if whole < cols {
        add(whole, (1 << (cols - whole)) - 1);
    }
    for (out, acc) in out.iter_mut().zip(acc) {
        for (out, acc) in out[first..].iter_mut().zip(&acc[..used]) {
            *out = add_lanes(*acc);
        }
    }
}

/// Distance 8, 4, 2, 1.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn add_lanes(lanes: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// How numbers of one format become f32 lanes.
trait Load {
    /// The numbers `at..at + 16` of a row where `mask` has a one, zeros elsewhere.
    ///
    /// # Safety
    /// Those numbers exist, and the processor offers this file's instructions.
    unsafe fn load(row: *const u8, at: usize, mask: __mmask16) -> __m512;
}

struct F32;
struct F16;
struct BF16;

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn load(row: *const u8, at: usize, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, row.cast::<f32>().add(at)) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn load(row: *const u8, at: usize, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(at)) })
    }
}

impl Load for BF16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn load(row: *const u8, at: usize, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        let bits = unsafe { _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().add(at)) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}
