//! AVX-512: a register is the sixteen accumulators of one sum.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::{Float, LANES, Lanes, W_ROWS};
use std::arch::x86_64::*;

/// See [`super::accumulate`].
///
/// # Safety
/// The lengths are those that `super::accumulate` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn with_load<L: Load>(w: &[&[u8]], x: &[&[f32]], acc: &mut [[Lanes; W_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.len() {
            1 => tile::<L, 8, 1>(w, x, acc, 0),
            2 => tile::<L, 8, 2>(w, x, acc, 0),
            n => {
                for first in (0..w.len()).step_by(4) {
                    match n {
                        3 => tile::<L, 4, 3>(w, x, acc, first),
                        4 => tile::<L, 4, 4>(w, x, acc, first),
                        5 => tile::<L, 4, 5>(w, x, acc, first),
                        _ => tile::<L, 4, 6>(w, x, acc, first),
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
    acc: &mut [[Lanes; W_ROWS]],
    first: usize,
) {
    assert!(x.len() == N && acc.len() == N && first < w.len() && first + W <= W_ROWS);
    let cols = x[0].len();
    // Rows beyond the last repeat it; nobody reads their sums.
    let used = (w.len() - first).min(W);
    let w: [*const u8; W] = std::array::from_fn(|o| w[first + o.min(used - 1)].as_ptr());
    let x: [*const f32; N] = std::array::from_fn(|r| x[r].as_ptr());
    let mut sums = [[_mm512_setzero_ps(); W]; N];
    for r in 0..N {
        for o in 0..W {
            // SAFETY: sixteen floats; the load needs no alignment.
            sums[r][o] = unsafe { _mm512_loadu_ps(acc[r][first + o].as_ptr()) };
        }
    }
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
                    sums[r][o] = _mm512_fmadd_ps(ws[o], x, sums[r][o]);
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
    for r in 0..N {
        for o in 0..W {
            // SAFETY: as for the load.
            unsafe { _mm512_storeu_ps(acc[r][first + o].as_mut_ptr(), sums[r][o]) };
        }
    }
}

/// See [`super::finish`]. All sums go down the tree together: every step halves the registers, not the lanes in use.
///
/// # Safety
/// The processor offers this file's instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(acc: &[Lanes; W_ROWS]) -> [f32; W_ROWS] {
    let mut sums = [_mm512_setzero_ps(); W_ROWS];
    for o in 0..W_ROWS {
        // SAFETY: sixteen floats; the load needs no alignment.
        sums[o] = unsafe { _mm512_loadu_ps(acc[o].as_ptr()) };
    }
    let mut fours = [_mm512_setzero_ps(); 2];
    for (i, four) in fours.iter_mut().enumerate() {
        // Distance 8: two sums per register, eight lanes each.
        let two = |k: usize| {
            let (a, b) = (sums[4 * i + k], sums[4 * i + k + 1]);
            _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b))
        };
        // Distance 4: four sums per register, one in every 128 bits.
        let (a, b) = (two(0), two(2));
        *four = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    }
    // Distances 2 and 1 inside the 128 bits, which end as sums k, 4 + k, and repetitions.
    let [a, b] = fours;
    let pairs = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
        _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
    );
    let sums = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
    let sums = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums));
    let mut out = [0.0; W_ROWS];
    // SAFETY: eight floats; the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums) };
    out
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
