//! IQ2_XXS: blocks of 66 bytes, f16 `d` and eight groups of 8 bytes: four indices into a table of eight magnitudes,
//! four 7-bit sign codes, and a 4-bit scale on top.
//!
//! Two whole blocks at a time. The table's rows, two bits per magnitude, fit eight registers, so that a few permutations
//! look 64 indices up, which takes a fraction of the time of loading 64 rows of bytes. Products are then taken element by
//! element of all 64 octets.

use super::super::activation::{GROUP, QuantizedRow};
use super::super::format::iq2_xxs::{
    BIAS,
    vbmi::{Decoder, bytes_by, eighths},
};
use super::Ahead;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 66;
/// Where the groups begin.
const CODES: usize = 2;
/// Elements per block.
const BLOCK: usize = 256;
/// Octets of elements per block.
const OCTETS: usize = BLOCK / 8;

/// Where group `i` of two blocks goes: those of the first block to the even places, those of the second to the odd ones.
const fn place(i: usize) -> usize {
    i % 8 * 2 + i / 8
}

/// See [`super::Kernel`]: of two blocks the first elements of all octets, then the second ones, and so on, the groups of both in
/// turn; of an odd last block likewise, its groups in order.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.chunks(2 * BLOCK).zip(to.chunks_mut(2 * BLOCK)) {
        let two = q.len() == 2 * BLOCK;
        for (octet, q) in q.as_chunks::<8>().0.iter().enumerate() {
            let octet = if two { place(octet / 4) * 4 + octet % 4 } else { octet };
            for (element, q) in q.iter().enumerate() {
                to[element * (to.len() / 8) + octet] = *q;
            }
        }
    }
}

/// See [`super::Kernel`]: an i32 per group, what the bias of the values adds to its sum, negated; in the order of the codes.
pub(super) fn arrange_sums(sums: &[i16], to: &mut [i16]) {
    let to: &mut [i32] = bytemuck::cast_slice_mut(to);
    for (sums, to) in sums.chunks(32).zip(to.chunks_mut(16)) {
        let two = to.len() == 16;
        for (i, &[first, second]) in sums.as_chunks::<2>().0.iter().enumerate() {
            to[if two { place(i) } else { i }] = -BIAS * (i32::from(first) + i32::from(second));
        }
    }
}

/// Which byte of the groups of a block is the index of octet `i`.
static INDICES: [u8; 64] = bytes_by!(i => i % 32 / 4 * 8 + i % 4);

/// Bytes of weights that are asked for per pair of blocks by the first pass, and per pair of blocks of sixteen rows by the second:
/// each its part of the time that both take, together what they read.
const FIRST: usize = 106;
const SECOND: usize = ROWS * (2 * BLOCK_BYTES - FIRST);

/// See [`super::Passes::Together`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
pub(super) unsafe fn sixteen(
    weights: &[&[u8]],
    x: QuantizedRow<'_>,
    mut ahead: Ahead,
    partial: &mut Partial,
    acc: &mut [f32; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        first_pass(weights, x, &mut ahead, partial);
        second_pass(partial, x.d, ahead, acc);
    }
}

/// Leaves 16 times the sum of every group plus its 4-bit scale, and the scale of every block.
///
/// # Safety
/// As for [`sixteen`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
unsafe fn first_pass(weights: &[&[u8]], x: QuantizedRow<'_>, ahead: &mut Ahead, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && weights.len() <= ROWS);
    assert!(x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    let constants = Constants::load();
    for (row, &weights) in weights.iter().enumerate() {
        assert!(weights.len() == blocks * BLOCK_BYTES);
        for block in (0..blocks).step_by(2) {
            let at = weights[block * BLOCK_BYTES..].as_ptr();
            ahead.ask(FIRST);
            // SAFETY: block `block` of weights and activations exists, and the next one unless this is the last.
            let sums = unsafe {
                let q = x.q.as_ptr().add(block * BLOCK);
                let corrections = x.sums.as_ptr().add(block * 16).cast();
                partial.d[block][row] = half_at(at);
                if block + 1 < blocks {
                    partial.d[block + 1][row] = half_at(at.add(BLOCK_BYTES));
                    constants.two(at.add(CODES), q, corrections)
                } else {
                    constants.one(at.add(CODES), q, corrections)
                }
            };
            // SAFETY: `GROUPS` is a multiple of sixteen, so there is room for two blocks; the store needs no alignment.
            unsafe { _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(8 * block).cast(), sums) };
        }
    }
}

/// The tables in registers.
struct Constants {
    decoder: Decoder,
    indices: __m512i,
}

impl Constants {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
    #[inline]
    fn load() -> Constants {
        // SAFETY: 64 bytes; the load needs no alignment.
        let indices = unsafe { _mm512_loadu_si512(INDICES.as_ptr().cast()) };
        Constants { decoder: Decoder::load(BIAS as u8), indices }
    }

    /// Of the groups of two blocks in turn: 16 times the sum plus the scale.
    ///
    /// # Safety
    /// `groups` are those of the first block, and the second block follows it; there are 512 activations and 16 corrections.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
    #[inline]
    unsafe fn two(&self, groups: *const u8, x: *const i8, corrections: *const i32) -> __m512i {
        const ODD: __mmask16 = 0xaaaa;
        // A group has a word of indices and one of signs. Loaded a word to the side, those of the second block come to lie between
        // those of the first, which costs no permutation.
        // SAFETY: the caller's promise: what is loaded lies in these blocks; no load needs alignment.
        unsafe {
            let second = groups.add(BLOCK_BYTES);
            let indices = _mm512_mask_loadu_epi32(_mm512_loadu_si512(groups.cast()), ODD, second.sub(4).cast());
            let words = _mm512_mask_loadu_epi32(_mm512_loadu_si512(groups.add(4).cast()), ODD, second.cast());
            self.sums::<2>(indices, words, x, corrections)
        }
    }

    /// As [`two`](Self::two), of one block.
    ///
    /// # Safety
    /// There are the 64 bytes of the groups of a block, 256 activations and 8 corrections.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
    #[inline]
    unsafe fn one(&self, groups: *const u8, x: *const i8, corrections: *const i32) -> __m512i {
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
        // SAFETY: the caller's promise; the load needs no alignment.
        unsafe {
            let groups = _mm512_loadu_si512(groups.cast());
            let (indices, words) =
                (_mm512_permutexvar_epi8(self.indices, groups), _mm512_permutexvar_epi32(odd, groups));
            self.sums::<1>(indices, words, x, corrections)
        }
    }

    /// The same for the groups of `BLOCKS` blocks, given the words with their indices and those with signs and scales.
    ///
    /// # Safety
    /// `x` has the 256 activations of each of the blocks, `corrections` the 8 of each.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
    #[inline]
    unsafe fn sums<const BLOCKS: usize>(
        &self,
        indices: __m512i,
        words: __m512i,
        x: *const i8,
        corrections: *const i32,
    ) -> __m512i {
        let values = self.decoder.values(indices, self.decoder.signs(words));
        // Octets without a block have no activations, and no corrections.
        let octets: __mmask64 = if BLOCKS == 2 { !0 } else { (1 << OCTETS) - 1 };
        let groups: __mmask16 = if BLOCKS == 2 { !0 } else { 0xff };
        // SAFETY: the caller's promise; the load needs no alignment.
        let corrections = unsafe { _mm512_maskz_loadu_epi32(groups, corrections) };
        // One element of all octets at a time: four octets are a group, and a lane.
        let mut sums = [corrections, _mm512_setzero_si512()];
        for element in 0..8 {
            // SAFETY: the caller's promise; the load needs no alignment.
            let x = unsafe { _mm512_maskz_loadu_epi8(octets, x.add(element * OCTETS * BLOCKS)) };
            sums[element / 4] = _mm512_dpbusd_epi32(sums[element / 4], values[element], x);
        }
        // A sum has at most 19 bits, so four more fit: those on top of the word, the scale.
        _mm512_shldi_epi32::<4>(_mm512_add_epi32(sums[0], sums[1]), words)
    }
}

/// Continues the accumulators of the rows with the groups whose activation scales are given.
///
/// # Safety
/// As for [`sixteen`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn second_pass(partial: &Partial, d_x: &[f32], mut ahead: Ahead, acc: &mut [f32; ROWS]) {
    let eighths = eighths();
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, d_x) in d_x.chunks(16).enumerate() {
        ahead.ask(SECOND);
        let sums = turned(&partial.sums, part);
        // As `place` says.
        let two = d_x.len() == 16;
        for (half, d_x) in d_x.as_chunks::<8>().0.iter().enumerate() {
            let d = floats(&partial.d[2 * part + half]);
            for (k, d_x) in d_x.iter().enumerate() {
                let packed = sums[if two { place(8 * half + k) } else { k }];
                // d (2 s + 1) / 8, the lowest four bits choosing; only the product with the activations' scale is rounded.
                let scale = _mm512_mul_ps(d, _mm512_permutexvar_ps(packed, eighths));
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*d_x));
                let sum = _mm512_cvtepi32_ps(_mm512_srai_epi32::<4>(packed));
                total = _mm512_fmadd_ps(sum, scale, total);
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
