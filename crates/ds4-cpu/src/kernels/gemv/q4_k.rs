//! Q4_K: blocks of 144 bytes: f16 `d`, f16 `dmin`, 12 bytes with eight 6-bit scales and minima, 128 bytes of 4-bit codes,
//! each 32 of them two groups: the lower halves, then the upper ones.

use super::super::activation::{GROUP, QuantizedRow};
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 144;
/// Where `dmin` stands.
const DMIN: usize = 2;
/// Where the scales and minima begin.
const SCALES: usize = 4;
/// Where the codes begin.
const CODES: usize = 16;
/// Elements per block.
const BLOCK: usize = 256;
/// Bits of a scale, and of a minimum.
const SCALE_BITS: u32 = 6;

/// See [`super::Kernel`]: as 64 bytes of codes have them, the groups of the lower halves, then those of the upper ones.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.as_chunks::<BLOCK>().0.iter().zip(to.as_chunks_mut::<BLOCK>().0) {
        let (q, to) = (q.as_chunks::<GROUP>().0, to.as_chunks_mut::<GROUP>().0);
        for (to, group) in to.iter_mut().zip([0, 2, 1, 3, 4, 6, 5, 7]) {
            *to = q[group];
        }
    }
}

/// See [`super::Kernel`]. Leaves the sum of every group above its scale, the sum of its activations above its minimum, and both
/// scales of every block.
///
/// # Safety
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && row < ROWS);
    assert!(weights.len() == blocks * BLOCK_BYTES && x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    let nibble = _mm512_set1_epi8(15);
    // First halves of the 128-bit lanes' sums, then second halves; then the groups in order.
    let first = _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7);
    let in_order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    for block in 0..blocks {
        let bytes = &weights[block * BLOCK_BYTES..][..BLOCK_BYTES];
        let at = bytes.as_ptr();
        prefetch(at.wrapping_add(PREFETCH), BLOCK_BYTES);
        let (scales, minima) = scales_and_minima(bytes);
        // SAFETY: the block has 144 bytes, the activations of block `block` 256 codes and 16 sums, and there is room for eight
        // groups from `8 block`, since `8 block + 8 <= groups <= GROUPS`; nothing needs alignment.
        unsafe {
            partial.d[block][row] = half_at(at);
            partial.dmin[block][row] = half_at(at.add(DMIN));
            let codes = [_mm512_loadu_si512(at.add(CODES).cast()), _mm512_loadu_si512(at.add(CODES + 64).cast())];
            let x_codes = x.q.as_ptr().add(block * BLOCK);
            let dot = |codes: __m512i, part: usize| {
                let x = _mm512_loadu_si512(x_codes.add(64 * part).cast());
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(codes, nibble), x)
            };
            let (a, b) = (dot(codes[0], 0), dot(_mm512_srli_epi16::<4>(codes[0]), 1));
            let (c, d) = (dot(codes[1], 2), dot(_mm512_srli_epi16::<4>(codes[1]), 3));
            // Two groups of eight partial sums per register become one register's.
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let halves = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let halves = _mm512_permutexvar_epi64(first, halves);
            let sum = _mm256_add_epi32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
            let sum = _mm256_permutevar8x32_epi32(sum, in_order);
            let of_x =
                _mm256_madd_epi16(_mm256_loadu_si256(x.sums.as_ptr().add(16 * block).cast()), _mm256_set1_epi16(1));
            let above = |sum: __m256i, below: u64| {
                let below = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(below as i64));
                _mm256_or_si256(_mm256_slli_epi32::<{ SCALE_BITS as i32 }>(sum), below)
            };
            _mm256_storeu_si256(partial.sums[row].as_mut_ptr().add(8 * block).cast(), above(sum, scales));
            _mm256_storeu_si256(partial.min_sums[row].as_mut_ptr().add(8 * block).cast(), above(of_x, minima));
        }
    }
}

/// The eight scales and the eight minima of a block, a byte each.
fn scales_and_minima(block: &[u8]) -> (u64, u64) {
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (s0, s4, s8) = (word(SCALES), word(SCALES + 4), word(SCALES + 8));
    // The first four have their six bits in bytes of their own, whose upper two bits belong to the other four.
    let own = |s: u32| u64::from(s & 0x3f3f_3f3f);
    let spread = |low: u32, high: u32| u64::from((low & 0x0f0f_0f0f) | (high >> 2 & 0x3030_3030)) << 32;
    (own(s0) | spread(s8, s0), own(s4) | spread(s8 >> 4, s4))
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    let low_bits = _mm512_set1_epi32((1 << SCALE_BITS) - 1);
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, d_x) in d_x.chunks(16).enumerate() {
        let sums = turned(&partial.sums, part);
        let min_sums = turned(&partial.min_sums, part);
        for (half, d_x) in d_x.as_chunks::<8>().0.iter().enumerate() {
            let d = floats(&partial.d[2 * part + half]);
            let dmin = floats(&partial.dmin[2 * part + half]);
            for (k, d_x) in d_x.iter().enumerate() {
                // The sum as a number, and the scale times that of the block and of the activations.
                let parts = |packed: __m512i, d: __m512| {
                    let low = _mm512_cvtepi32_ps(_mm512_and_si512(packed, low_bits));
                    let scale = _mm512_mul_ps(_mm512_mul_ps(d, low), _mm512_set1_ps(*d_x));
                    (_mm512_cvtepi32_ps(_mm512_srai_epi32::<SCALE_BITS>(packed)), scale)
                };
                let (sum, scale) = parts(sums[8 * half + k], d);
                total = _mm512_fmadd_ps(sum, scale, total);
                let (sum, scale) = parts(min_sums[8 * half + k], dmin);
                total = _mm512_fnmadd_ps(sum, scale, total);
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
