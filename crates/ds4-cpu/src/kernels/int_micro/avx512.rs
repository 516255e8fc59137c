//! AVX-512 VNNI: a register holds one 32-bit sum for each of sixteen weight rows.

// In this file, arrays of registers are handled by index: iterator adapters and `array::from_fn` are compiled without
// the vector extensions, which keeps the compiler from inlining them or their closures here.
#![allow(clippy::needless_range_loop)]

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{GROUP_CODES, ROWS, Tile};
use super::Sums;
use std::arch::x86_64::*;

/// See [`super::Loop::multiply`].
///
/// # Safety
/// The lengths are those that `super::Loop::multiply` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn multiply(tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match tiles {
            [tile] => with_tiles([tile], x, acc),
            [tile, second, ..] => with_tiles([tile, second], x, acc),
            [] => {}
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn with_tiles<const T: usize>(tiles: [&Tile; T], x: Block<'_>, acc: &mut [Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.rows {
            1 => with_rows::<T, 1>(tiles, x, acc),
            2 => with_rows::<T, 2>(tiles, x, acc),
            3 => with_rows::<T, 3>(tiles, x, acc),
            4 => with_rows::<T, 4>(tiles, x, acc),
            5 => with_rows::<T, 5>(tiles, x, acc),
            _ => with_rows::<T, 6>(tiles, x, acc),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn with_rows<const T: usize, const N: usize>(tiles: [&Tile; T], x: Block<'_>, acc: &mut [Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match tiles[0].minima() {
            None => groups::<T, N, false>(tiles, x, acc),
            Some(_) => groups::<T, N, true>(tiles, x, acc),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn groups<const T: usize, const N: usize, const MINIMA: bool>(
    tiles: [&Tile; T],
    x: Block<'_>,
    acc: &mut [Sums],
) {
    assert!(x.rows == N && acc.len() == N);
    let n_groups = tiles[0].codes().len();
    let mut codes = [std::ptr::null::<u8>(); T];
    let mut scales = [std::ptr::null::<f32>(); T];
    let mut factors = [std::ptr::null::<i32>(); T];
    let mut min_scales = [std::ptr::null::<f32>(); T];
    for t in 0..T {
        codes[t] = tiles[t].codes().as_ptr().cast();
        scales[t] = tiles[t].scales().as_ptr().cast();
        if let Some(minima) = tiles[t].minima() {
            (factors[t], min_scales[t]) = (minima.factors.as_ptr().cast(), minima.scales.as_ptr().cast());
        }
    }
    let mut total = [[_mm512_setzero_ps(); N]; T];
    for t in 0..T {
        for r in 0..N {
            // SAFETY: an element has sixteen floats; the load needs no alignment.
            total[t][r] = unsafe { _mm512_loadu_ps(acc[r][t].as_ptr()) };
        }
    }
    for g in 0..n_groups {
        // SAFETY: group `g` of every array: the block has `WORDS` words per row, a tile `GROUP_CODES` codes and sixteen of
        // each scale (and of each factor pair where MINIMA); `multiply` checked.
        unsafe {
            let x = x.words.as_ptr().add(g * WORDS * N);
            let mut sum = [[_mm512_setzero_si512(); N]; T];
            for r in 0..N {
                let correction = _mm512_set1_epi32(*x.add((QUADS + 1) * N + r));
                for t in 0..T {
                    sum[t][r] = correction;
                }
            }
            for quad in 0..QUADS {
                let mut w = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    w[t] = _mm512_load_si512(codes[t].add(g * GROUP_CODES + quad * 64).cast());
                }
                for r in 0..N {
                    let x = _mm512_set1_epi32(*x.add(quad * N + r));
                    for t in 0..T {
                        sum[t][r] = _mm512_dpbusd_epi32(sum[t][r], w[t], x);
                    }
                }
            }
            for t in 0..T {
                let scale = _mm512_load_ps(scales[t].add(g * ROWS));
                for r in 0..N {
                    let d = _mm512_set1_ps(*x.add(QUADS * N + r).cast());
                    total[t][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][r]), _mm512_mul_ps(scale, d), total[t][r]);
                }
            }
            if MINIMA {
                for t in 0..T {
                    let factor = _mm512_load_si512(factors[t].add(g * ROWS).cast());
                    let scale = _mm512_load_ps(min_scales[t].add(g * ROWS));
                    for r in 0..N {
                        let d = _mm512_set1_ps(*x.add(QUADS * N + r).cast());
                        let pair = _mm512_set1_epi32(*x.add((QUADS + 2) * N + r));
                        let sum = _mm512_cvtepi32_ps(_mm512_madd_epi16(factor, pair));
                        total[t][r] = _mm512_fnmadd_ps(sum, _mm512_mul_ps(scale, d), total[t][r]);
                    }
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..N {
            // SAFETY: as for the load.
            unsafe { _mm512_storeu_ps(acc[r][t].as_mut_ptr(), total[t][r]) };
        }
    }
}
