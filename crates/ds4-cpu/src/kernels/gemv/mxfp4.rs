//! MXFP4: blocks of 17 bytes: exponent, 16 bytes of E2M1 codes, elements 0..16 in the lower halves, 16..32 in the upper ones.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::format::mxfp4::avx512::{BIASED_VALUES, scale};
use super::super::format::mxfp4::{BIAS, BLOCK_BYTES};
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, turned};
use std::arch::x86_64::*;

/// Where the codes begin.
const CODES: usize = 1;
/// Elements of sixteen groups, which are done together.
const SIXTEEN: usize = 16 * GROUP;

/// See [`super::Kernel`]: of every four groups the first halves, then the second ones. Groups beyond the last whole sixteen
/// keep their order.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.chunks(SIXTEEN).zip(to.chunks_mut(SIXTEEN)) {
        if q.len() < SIXTEEN {
            to.copy_from_slice(q);
            continue;
        }
        for (q, to) in q.as_chunks::<{ 4 * GROUP }>().0.iter().zip(to.as_chunks_mut::<{ 4 * GROUP }>().0) {
            let (q, to) = (q.as_chunks::<16>().0, to.as_chunks_mut::<16>().0);
            for (i, to) in to.iter_mut().enumerate() {
                *to = q[i % 4 * 2 + i / 4];
            }
        }
    }
}

/// See [`super::Kernel`]. Leaves the sums, and the exponent of every group.
///
/// # Safety
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    assert!(groups <= GROUPS && row < ROWS && weights.len() == groups * BLOCK_BYTES);
    assert!(x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    // SAFETY: sixteen bytes, unaligned.
    let values = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(BIASED_VALUES.as_ptr().cast()) });
    let nibble = _mm512_set1_epi8(15);
    // What the bias adds is its multiple of the sum of the activations.
    let minus_bias = _mm512_set1_epi16(-BIAS as i16);
    // Element `reg` of the 128-bit lane `l` is group `4 reg + l`.
    let in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let whole = groups / 16;
    for part in 0..whole {
        let bytes = &weights[part * 16 * BLOCK_BYTES..][..16 * BLOCK_BYTES];
        prefetch(bytes.as_ptr().wrapping_add(PREFETCH), 16 * BLOCK_BYTES);
        for k in 0..16 {
            partial.d[part * 16 + k][row] = u16::from(bytes[k * BLOCK_BYTES]);
        }
        let mut sums = [_mm512_setzero_si512(); 4];
        for k in 0..4 {
            // SAFETY: blocks `4 k..4 k + 4` of the sixteen have sixteen bytes of codes each, and as many groups of activations
            // exist; no load needs alignment.
            unsafe {
                let codes = |i: usize| _mm_loadu_si128(bytes.as_ptr().add((4 * k + i) * BLOCK_BYTES + CODES).cast());
                let codes = _mm512_inserti64x4::<1>(
                    _mm512_castsi256_si512(_mm256_set_m128i(codes(1), codes(0))),
                    _mm256_set_m128i(codes(3), codes(2)),
                );
                let x = x.q.as_ptr().add((part * 16 + 4 * k) * GROUP);
                let (low, high) = (codes, _mm512_srli_epi16::<4>(codes));
                for (half, codes) in [(0, low), (1, high)] {
                    let w = _mm512_shuffle_epi8(values, _mm512_and_si512(codes, nibble));
                    sums[k] = _mm512_dpbusd_epi32(sums[k], w, _mm512_loadu_si512(x.add(64 * half).cast()));
                }
            }
        }
        // Four registers' four partial sums per 128-bit lane become one register's.
        let [a, b, c, d] = sums;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let sum = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        // SAFETY: sixteen groups have 32 sums of activations, and `16 part + 16 <= groups <= GROUPS`; nothing needs alignment.
        unsafe {
            let of_x = _mm512_loadu_si512(x.sums.as_ptr().add(part * 32).cast());
            let sum = _mm512_add_epi32(_mm512_permutexvar_epi32(in_order, sum), _mm512_madd_epi16(of_x, minus_bias));
            _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(16 * part).cast(), sum);
        }
    }
    for group in whole * 16..groups {
        let (e, codes) = weights[group * BLOCK_BYTES..][..BLOCK_BYTES].split_at(CODES);
        partial.d[group][row] = u16::from(e[0]);
        let value = |code: u8| i32::from(BIASED_VALUES[usize::from(code)]) - BIAS;
        let (first, second) = x.q[group * GROUP..][..GROUP].split_at(GROUP / 2);
        let products = codes.iter().zip(first.iter().zip(second));
        partial.sums[row][group] =
            products.map(|(c, (&a, &b))| value(c & 15) * i32::from(a) + value(c >> 4) * i32::from(b)).sum();
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
    for (part, (d_x, exponents)) in d_x.chunks(16).zip(partial.d.chunks(16)).enumerate() {
        let sums = turned(&partial.sums, part);
        for (sum, (d_x, e)) in sums.iter().zip(d_x.iter().zip(exponents)) {
            // SAFETY: 32 bytes; the load needs no alignment.
            let e = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(e.as_ptr().cast()) });
            let scale = _mm512_mul_ps(scale(e), _mm512_set1_ps(*d_x));
            total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*sum), scale, total);
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
