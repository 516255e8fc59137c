//! AVX2: a register holds one 32-bit sum for each of eight weight rows; a tile is done in two halves.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use std::arch::x86_64::*;

/// Activation rows that fit the sixteen registers beside the rest.
const X_ROWS: usize = 4;
/// Weight rows per register.
const HALF: usize = 8;

/// See [`super::multiply`].
///
/// # Safety
/// The lengths are those that `super::multiply` checks.
#[target_feature(enable = "avx2,fma")]
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

#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const N: usize>(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    // The byte product adds pairs with saturation at 32767: too little for codes up to 255 times 127.
    // Q8_0, the only such format, goes through signed codes instead.
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

#[target_feature(enable = "avx2,fma")]
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
            (m.factors.as_ptr().cast::<i32>().wrapping_add(at), m.scales.as_ptr().cast::<f32>().wrapping_add(at))
        }
        None => (std::ptr::null(), std::ptr::null()),
    };
    let mut q = [std::ptr::null::<i8>(); N];
    let mut d = [std::ptr::null::<f32>(); N];
    let mut sums = [std::ptr::null::<i16>(); N];
    for r in 0..N {
        (q[r], d[r], sums[r]) = (x[r].q.as_ptr(), x[r].d.as_ptr(), x[r].sums.as_ptr());
    }

    let ones = _mm256_set1_epi16(1);
    let top_bits = _mm256_set1_epi8(-128);
    let minus_bias = _mm256_set1_epi16(if SIGNED { 0 } else { -(tile.bias as i16) });
    let mut total = [_mm256_setzero_ps(); N];
    for r in 0..N {
        // SAFETY: eight of the sixteen floats from `at`, which is 0 or 8; the load needs no alignment.
        total[r] = unsafe { _mm256_loadu_ps(acc[r].as_ptr().add(at)) };
    }
    for g in 0..n_groups {
        // SAFETY: group `g` of every array: `q` has 32 codes, `d` one scale, `sums` two sums per group, the tile
        // `GROUP_CODES` codes and sixteen of each scale (and of each factor pair where MINIMA), of which eight are
        // read from `at`, 0 or 8; `multiply` checked.
        unsafe {
            let pair = |r: usize| _mm256_set1_epi32(sums[r].add(2 * g).cast::<i32>().read_unaligned());
            let mut sum = [_mm256_setzero_si256(); N];
            for r in 0..N {
                sum[r] = _mm256_madd_epi16(pair(r), minus_bias);
            }
            for quad in 0..GROUP / 4 {
                let mut w = _mm256_load_si256(codes.add(g * GROUP_CODES + quad * 64).cast());
                let mut sign = w;
                if SIGNED {
                    sign = _mm256_xor_si256(w, top_bits);
                    w = _mm256_abs_epi8(sign);
                }
                for r in 0..N {
                    let x = q[r].add(g * GROUP + quad * 4).cast::<i32>().read_unaligned();
                    let mut x = _mm256_set1_epi32(x);
                    if SIGNED {
                        // |w| * (x with the sign of w): at most 128 * 127 * 2, which the pair holds.
                        x = _mm256_sign_epi8(x, sign);
                    }
                    let pairs = _mm256_maddubs_epi16(w, x);
                    sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
                }
            }
            let scale = _mm256_load_ps(scales.add(g * ROWS));
            for r in 0..N {
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(*d[r].add(g)));
                total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), scale, total[r]);
            }
            if MINIMA {
                let factor = _mm256_load_si256(factors.add(g * ROWS).cast());
                let scale = _mm256_load_ps(min_scales.add(g * ROWS));
                for r in 0..N {
                    let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(factor, pair(r)));
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(*d[r].add(g)));
                    total[r] = _mm256_fnmadd_ps(sum, scale, total[r]);
                }
            }
        }
    }
    for r in 0..N {
        // SAFETY: as for the load.
        unsafe { _mm256_storeu_ps(acc[r].as_mut_ptr().add(at), total[r]) };
    }
}
