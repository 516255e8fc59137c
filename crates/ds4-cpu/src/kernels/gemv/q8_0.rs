//! Q8_0: blocks of 34 bytes, f16 `d` and 32 signed codes.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 34;
/// Where the codes begin.
const CODES: usize = 2;

/// See [`super::Kernel`]: the order remains.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    to.copy_from_slice(q);
}

/// See [`super::Kernel`]. Leaves the sums, and the scale of every group.
///
/// # Safety
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    assert!(groups <= GROUPS && row < ROWS && weights.len() == groups * BLOCK_BYTES);
    assert!(x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    // A code with its top bit flipped is the unsigned code + 128; what that adds to a sum is 128 times the sum of the
    // activations.
    let top_bits = _mm512_set1_epi8(-128);
    let minus_bias = _mm512_set1_epi16(-128);
    // The 128-bit lanes of two registers: even blocks' halves, odd blocks' halves. Result 2 k + h adds two lanes.
    let first = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    let whole = groups / 16;
    for part in 0..whole {
        let at = weights[part * 16 * BLOCK_BYTES..].as_ptr();
        prefetch(at.wrapping_add(PREFETCH), 16 * BLOCK_BYTES);
        for k in 0..16 {
            // SAFETY: blocks `16 part..16 part + 16` exist.
            partial.d[part * 16 + k][row] = unsafe { half_at(at.add(k * BLOCK_BYTES)) };
        }
        let mut sums = [_mm512_setzero_si512(); 8];
        for k in 0..8 {
            // SAFETY: blocks `16 part + 2 k` and the next, and as many groups of activations, exist; no load needs
            // alignment.
            let (low, high, x) = unsafe {
                let block = at.add(2 * k * BLOCK_BYTES + CODES);
                (
                    _mm256_loadu_si256(block.cast()),
                    _mm256_loadu_si256(block.add(BLOCK_BYTES).cast()),
                    _mm512_loadu_si512(x.q.as_ptr().add((part * 16 + 2 * k) * GROUP).cast()),
                )
            };
            let w = _mm512_xor_si512(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high), top_bits);
            sums[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);
        }
        // Four registers' four partial sums per 128-bit lane become one register's.
        let mut quads = [_mm512_setzero_si512(); 2];
        for k in 0..2 {
            let [a, b, c, d] = [sums[4 * k], sums[4 * k + 1], sums[4 * k + 2], sums[4 * k + 3]];
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            quads[k] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
        // SAFETY: sixteen groups have 32 sums of activations.
        let of_x = unsafe { _mm512_loadu_si512(x.sums.as_ptr().add(part * 32).cast()) };
        let sum = _mm512_add_epi32(
            _mm512_permutex2var_epi32(quads[0], first, quads[1]),
            _mm512_permutex2var_epi32(quads[0], second, quads[1]),
        );
        let sum = _mm512_add_epi32(sum, _mm512_madd_epi16(of_x, minus_bias));
        // SAFETY: `16 part + 16 <= groups <= GROUPS`; the store needs no alignment.
        unsafe { _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(16 * part).cast(), sum) };
    }
    for group in whole * 16..groups {
        let (d, codes) = weights[group * BLOCK_BYTES..][..BLOCK_BYTES].split_at(CODES);
        partial.d[group][row] = u16::from_le_bytes([d[0], d[1]]);
        let products = codes.iter().zip(&x.q[group * GROUP..]).map(|(&w, &x)| i32::from(w as i8) * i32::from(x));
        partial.sums[row][group] = products.sum();
    }
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, (d_x, d)) in d_x.chunks(16).zip(partial.d.chunks(16)).enumerate() {
        let sums = turned(&partial.sums, part);
        for (sum, (d_x, d)) in sums.iter().zip(d_x.iter().zip(d)) {
            let scale = _mm512_mul_ps(floats(d), _mm512_set1_ps(*d_x));
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*sum), scale, total);
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
