//! AVX-512 VNNI: a register holds one 32-bit sum for each of the sixteen weight rows.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use std::arch::x86_64::*;

/// See [`super::multiply`].
///
/// # Safety
/// The lengths are those that `super::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn multiply(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.len() {
            1 => rows::<1>(tile, x, acc),
            2 => rows::<2>(tile, x, acc),
            3 => rows::<3>(tile, x, acc),
            4 => rows::<4>(tile, x, acc),
            5 => rows::<5>(tile, x, acc),
            6 => rows::<6>(tile, x, acc),
            7 => rows::<7>(tile, x, acc),
            _ => rows::<8>(tile, x, acc),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn rows<const N: usize>(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.minima() {
            None => groups::<N, false>(tile, x, acc),
            Some(_) => groups::<N, true>(tile, x, acc),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn groups<const N: usize, const MINIMA: bool>(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    assert!(x.len() == N && acc.len() == N);
    let n_groups = tile.codes().len();
    let codes = tile.codes().as_ptr().cast::<u8>();
    let scales = tile.scales().as_ptr().cast::<f32>();
    let (factors, min_scales) = match tile.minima() {
        Some(m) => (m.factors.as_ptr().cast::<i32>(), m.scales.as_ptr().cast::<f32>()),
        None => (std::ptr::null(), std::ptr::null()),
    };
    let mut q = [std::ptr::null::<i8>(); N];
    let mut d = [std::ptr::null::<f32>(); N];
    let mut sums = [std::ptr::null::<i16>(); N];
    for r in 0..N {
        (q[r], d[r], sums[r]) = (x[r].q.as_ptr(), x[r].d.as_ptr(), x[r].sums.as_ptr());
    }

    let minus_bias = _mm512_set1_epi16(-(tile.bias as i16));
    let mut total = [_mm512_setzero_ps(); N];
    for r in 0..N {
        // SAFETY: an element has sixteen floats; the load needs no alignment.
        total[r] = unsafe { _mm512_loadu_ps(acc[r].as_ptr()) };
    }
    for g in 0..n_groups {
        // SAFETY: group `g` of every array: `q` has 32 codes, `d` one scale, `sums` two sums per group, the tile
        // `GROUP_CODES` codes and sixteen of each scale (and of each factor pair where MINIMA); `multiply` checked.
        unsafe {
            let mut sum = [_mm512_setzero_si512(); N];
            for r in 0..N {
                let pair = _mm512_set1_epi32(sums[r].add(2 * g).cast::<i32>().read_unaligned());
                sum[r] = _mm512_madd_epi16(pair, minus_bias);
            }
            for quad in 0..GROUP / 4 {
                let w = _mm512_load_si512(codes.add(g * GROUP_CODES + quad * 64).cast());
                for r in 0..N {
                    let x = q[r].add(g * GROUP + quad * 4).cast::<i32>().read_unaligned();
                    sum[r] = _mm512_dpbusd_epi32(sum[r], w, _mm512_set1_epi32(x));
                }
            }
            let scale = _mm512_load_ps(scales.add(g * ROWS));
            for r in 0..N {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*d[r].add(g)));
                total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), scale, total[r]);
            }
            if MINIMA {
                let factor = _mm512_load_si512(factors.add(g * ROWS).cast());
                let scale = _mm512_load_ps(min_scales.add(g * ROWS));
                for r in 0..N {
                    let pair = _mm512_set1_epi32(sums[r].add(2 * g).cast::<i32>().read_unaligned());
                    let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(factor, pair));
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*d[r].add(g)));
                    total[r] = _mm512_fnmadd_ps(sum, scale, total[r]);
                }
            }
        }
    }
    for r in 0..N {
        // SAFETY: as for the load.
        unsafe { _mm512_storeu_ps(acc[r].as_mut_ptr(), total[r]) };
    }
}
