//! AVX2: two registers are the sixteen accumulators of one sum.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::{Float, LANES, W_ROWS};
use std::arch::x86_64::*;

/// Lanes of a register.
const HALF: usize = 8;

/// See [`super::multiply`].
///
/// # Safety
/// The lengths are those that `super::multiply` checks.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
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

#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn with_load<L: Load>(w: &[&[u8]], x: &[&[f32]], out: &mut [[f32; W_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        if x.len() == 1 {
            for first in (0..w.len()).step_by(4) {
                tile::<L, 4, 1>(w, x, out, first);
            }
            return;
        }
        for (x, out) in x.chunks(2).zip(out.chunks_mut(2)) {
            for first in (0..w.len()).step_by(2) {
                match x.len() {
                    1 => tile::<L, 2, 1>(w, x, out, first),
                    _ => tile::<L, 2, 2>(w, x, out, first),
                }
            }
        }
    }
}

/// Weight rows `first..first + W` times all `N` activation rows.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
#[inline]
unsafe fn tile<L: Load, const W: usize, const N: usize>(
    w: &[&[u8]],
    x: &[&[f32]],
    out: &mut [[f32; W_ROWS]],
    first: usize,
) {
    assert!(x.len() == N && out.len() == N && first < w.len());
    let cols = x[0].len();
    // Rows beyond the last repeat it; their sums are dropped.
    let used = (w.len() - first).min(W);
    let w: [&[u8]; W] = std::array::from_fn(|o| w[first + o.min(used - 1)]);
    let mut acc = [[[_mm256_setzero_ps(); 2]; W]; N];
    let whole = cols / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for half in 0..2 {
            let at = at + half * HALF;
            // SAFETY: every row has `cols` numbers, and `at + 8 <= cols`.
            unsafe {
                let mut ws = [_mm256_setzero_ps(); W];
                for o in 0..W {
                    ws[o] = L::load(w[o].as_ptr(), at);
                }
                for r in 0..N {
                    let x = _mm256_loadu_ps(x[r].as_ptr().add(at));
                    for o in 0..W {
                        acc[r][o][half] = _mm256_fmadd_ps(ws[o], x, acc[r][o][half]);
                    }
                }
            }
        }
    }
    if whole < cols {
        // The rest of each row, continued with zeros.
        let mut x_rest = [[0.0f32; LANES]; N];
        for (rest, x) in x_rest.iter_mut().zip(x) {
            rest[..cols - whole].copy_from_slice(&x[whole..]);
        }
        for o in 0..W {
            let mut w_rest = [0u8; LANES * 4];
            let bytes = &w[o][whole * L::BYTES..];
            w_rest[..bytes.len()].copy_from_slice(bytes);
            for half in 0..2 {
                // SAFETY: both arrays have room for sixteen numbers.
                unsafe {
                    let w = L::load(w_rest.as_ptr(), half * HALF);
                    for r in 0..N {
                        let x = _mm256_loadu_ps(x_rest[r].as_ptr().add(half * HALF));
                        acc[r][o][half] = _mm256_fmadd_ps(w, x, acc[r][o][half]);
                    }
                }
            }
        }
    }
    for (out, acc) in out.iter_mut().zip(acc) {
        for (out, acc) in out[first..].iter_mut().zip(&acc[..used]) {
            *out = add_lanes(*acc);
        }
    }
}

/// Distance 8, 4, 2, 1.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
#[inline]
fn add_lanes(lanes: [__m256; 2]) -> f32 {
    let eight = _mm256_add_ps(lanes[0], lanes[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// How numbers of one format become f32 lanes.
trait Load {
    const BYTES: usize;

    /// The numbers `at..at + 8` of a row.
    ///
    /// # Safety
    /// Those numbers exist, and the processor offers this file's instructions.
    unsafe fn load(row: *const u8, at: usize) -> __m256;
}

struct F32;
struct F16;
struct BF16;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,bmi2")]
    unsafe fn load(row: *const u8, at: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(row.cast::<f32>().add(at)) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,bmi2")]
    unsafe fn load(row: *const u8, at: usize) -> __m256 {
        // SAFETY: the caller's promise.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(row.cast::<u16>().add(at).cast()) })
    }
}

impl Load for BF16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,bmi2")]
    unsafe fn load(row: *const u8, at: usize) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(row.cast::<u16>().add(at).cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}
