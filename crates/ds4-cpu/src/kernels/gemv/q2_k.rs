//! Q2_K: blocks of 84 bytes: 16 scales (low half of a byte) and minima (high half) of 16 elements each, 64 bytes of
//! 2-bit codes, f16 `d`, f16 `dmin`. The codes are four planes; plane `j` has group `j` in the first 32 bytes and group
//! `4 + j` in the others.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 84;
/// Where the codes begin.
const CODES: usize = 16;
/// Where `d` stands.
const D: usize = 80;
/// Where `dmin` stands.
const DMIN: usize = 82;
/// Elements per block.
const BLOCK: usize = 256;

/// See [`super::Kernel`]: plane by plane.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.as_chunks::<BLOCK>().0.iter().zip(to.as_chunks_mut::<BLOCK>().0) {
        let (q, to) = (q.as_chunks::<GROUP>().0, to.as_chunks_mut::<GROUP>().0);
        for (i, to) in to.iter_mut().enumerate() {
            *to = q[i % 2 * 4 + i / 2];
        }
    }
}

/// See [`super::Kernel`]. Leaves the sums of codes and of minima, and both scales of every block.
///
/// # Safety
/// As for [`super::Kernel::row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && row < ROWS);
    assert!(weights.len() == blocks * BLOCK_BYTES && x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    let two_bits = _mm512_set1_epi8(3);
    let nibble = _mm_set1_epi8(15);
    // Sub-block of the 128-bit lane l in plane j: 2 j + l for the first half, 8 more for the second. Its scale goes to
    // the lower 16 bits of all 32-bit lanes; 0x80 gives a zero.
    let (low, high) = (0x8080_8000u32 as i32, 0x8080_8001u32 as i32);
    let of_plane_0 = _mm512_setr_epi32(
        low,
        low,
        low,
        low,
        high,
        high,
        high,
        high,
        low + 8,
        low + 8,
        low + 8,
        low + 8,
        high + 8,
        high + 8,
        high + 8,
        high + 8,
    );
    let next_plane = _mm512_set1_epi32(2);
    // First halves of groups 0 to 7, then second halves.
    let first = _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7);
    for block in 0..blocks {
        let at = weights[block * BLOCK_BYTES..].as_ptr();
        prefetch(at.wrapping_add(PREFETCH), BLOCK_BYTES);
        // SAFETY: the block has 84 bytes; no load needs alignment.
        let (packed, codes) = unsafe { (_mm_loadu_si128(at.cast()), _mm512_loadu_si512(at.add(CODES).cast())) };
        // SAFETY: as above.
        unsafe {
            partial.d[block][row] = half_at(at.add(D));
            partial.dmin[block][row] = half_at(at.add(DMIN));
        }
        let scales = _mm512_broadcast_i32x4(_mm_and_si128(packed, nibble));
        let planes =
            [codes, _mm512_srli_epi16::<2>(codes), _mm512_srli_epi16::<4>(codes), _mm512_srli_epi16::<6>(codes)];
        let mut place = of_plane_0;
        let mut sums = [_mm512_setzero_si512(); 4];
        for j in 0..4 {
            // SAFETY: block `block` of the activations has 256 codes; the load needs no alignment.
            let x = unsafe { _mm512_loadu_si512(x.q.as_ptr().add(block * BLOCK + 64 * j).cast()) };
            let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(planes[j], two_bits), x);
            // Four products fit 16 bits; the upper half of the lane is multiplied by zero.
            sums[j] = _mm512_madd_epi16(sum, _mm512_shuffle_epi8(scales, place));
            place = _mm512_add_epi32(place, next_plane);
        }
        // Partial sums of four planes per 128-bit lane become one register's.
        let [a, b, c, d] = sums;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let halves = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let halves = _mm512_permutexvar_epi64(first, halves);
        let sum = _mm256_add_epi32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
        let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble));
        // SAFETY: a block has 16 sums of activations, and `8 block + 8 <= groups <= GROUPS`; nothing needs alignment.
        unsafe {
            let of_x = _mm256_loadu_si256(x.sums.as_ptr().add(16 * block).cast());
            let min_sum = _mm256_madd_epi16(mins, of_x);
            _mm256_storeu_si256(partial.sums[row].as_mut_ptr().add(8 * block).cast(), sum);
            _mm256_storeu_si256(partial.min_sums[row].as_mut_ptr().add(8 * block).cast(), min_sum);
        }
    }
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Kernel::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, d_x) in d_x.chunks(16).enumerate() {
        let sums = turned(&partial.sums, part);
        let min_sums = turned(&partial.min_sums, part);
        for (half, d_x) in d_x.as_chunks::<8>().0.iter().enumerate() {
            let d = floats(&partial.d[2 * part + half]);
            let dmin = floats(&partial.dmin[2 * part + half]);
            for (k, d_x) in d_x.iter().enumerate() {
                let d_x = _mm512_set1_ps(*d_x);
                let sum = _mm512_cvtepi32_ps(sums[8 * half + k]);
                total = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, d_x), total);
                let min_sum = _mm512_cvtepi32_ps(min_sums[8 * half + k]);
                total = _mm512_fnmadd_ps(min_sum, _mm512_mul_ps(dmin, d_x), total);
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
