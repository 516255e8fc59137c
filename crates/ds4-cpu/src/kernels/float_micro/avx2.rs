//! AVX2: two registers are the sixteen accumulators of one sum.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::{Float, LANES, Lanes, W_ROWS};
use std::arch::x86_64::*;

/// Lanes of a register.
const HALF: usize = 8;

/// See [`super::accumulate`].
///
/// # Safety
/// The lengths are those that `super::accumulate` checks.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
pub(super) unsafe fn accumulate(ty: Float, w: &[&[u8]], x: &[&[f32]], acc: &mut [[Lanes; W_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match ty {
            Float::F32 => with_load::<F32>(w, x, acc),
            Float::F16 => with_load::<F16>(w, x, acc),
            Float::BF16 => with_load::<BF16>(w, x, acc),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn with_load<L: Load>(w: &[&[u8]], x: &[&[f32]], acc: &mut [[Lanes; W_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        if x.len() == 1 {
            for first in (0..w.len()).step_by(4) {
                tile::<L, 4, 1, 2>(w, x, acc, first, 0);
            }
            return;
        }
        for first in (0..w.len()).step_by(2) {
            // The two halves of the lanes never meet here, and twelve sums of half the lanes fill the registers best.
            for half in 0..2 {
                match x.len() {
                    2 => tile::<L, 2, 2, 1>(w, x, acc, first, half),
                    3 => tile::<L, 2, 3, 1>(w, x, acc, first, half),
                    4 => tile::<L, 2, 4, 1>(w, x, acc, first, half),
                    5 => tile::<L, 2, 5, 1>(w, x, acc, first, half),
                    _ => tile::<L, 2, 6, 1>(w, x, acc, first, half),
                }
            }
        }
    }
}

/// Weight rows `first..first + W` times all `N` activation rows, `H` halves of the lanes from half `from` on.
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
#[inline]
unsafe fn tile<L: Load, const W: usize, const N: usize, const H: usize>(
    w: &[&[u8]],
    x: &[&[f32]],
    acc: &mut [[Lanes; W_ROWS]],
    first: usize,
    from: usize,
) {
    assert!(x.len() == N && acc.len() == N && first < w.len() && first + W <= W_ROWS && from + H <= 2);
    let cols = x[0].len();
    // Rows beyond the last repeat it; nobody reads their sums.
    let used = (w.len() - first).min(W);
    let w: [&[u8]; W] = std::array::from_fn(|o| w[first + o.min(used - 1)]);
    let mut sums = [[[_mm256_setzero_ps(); H]; W]; N];
    for r in 0..N {
        for o in 0..W {
            for h in 0..H {
                // SAFETY: eight of the sixteen floats; the load needs no alignment.
                sums[r][o][h] = unsafe { _mm256_loadu_ps(acc[r][first + o].as_ptr().add((from + h) * HALF)) };
            }
        }
    }
    let whole = cols / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for h in 0..H {
            let at = at + (from + h) * HALF;
            // SAFETY: every row has `cols` numbers, and `at + 8 <= cols`.
            unsafe {
                let mut ws = [_mm256_setzero_ps(); W];
                for o in 0..W {
                    ws[o] = L::load(w[o].as_ptr(), at);
                }
                for r in 0..N {
                    let x = _mm256_loadu_ps(x[r].as_ptr().add(at));
                    for o in 0..W {
                        sums[r][o][h] = _mm256_fmadd_ps(ws[o], x, sums[r][o][h]);
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
            for h in 0..H {
                let at = (from + h) * HALF;
                // SAFETY: both arrays have room for sixteen numbers.
                unsafe {
                    let w = L::load(w_rest.as_ptr(), at);
                    for r in 0..N {
                        let x = _mm256_loadu_ps(x_rest[r].as_ptr().add(at));
                        sums[r][o][h] = _mm256_fmadd_ps(w, x, sums[r][o][h]);
                    }
                }
            }
        }
    }
    for r in 0..N {
        for o in 0..W {
            for h in 0..H {
                // SAFETY: as for the load.
                unsafe { _mm256_storeu_ps(acc[r][first + o].as_mut_ptr().add((from + h) * HALF), sums[r][o][h]) };
            }
        }
    }
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
