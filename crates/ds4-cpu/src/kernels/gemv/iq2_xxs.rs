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
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 66;
/// Where the groups begin.
const CODES: usize = 2;
/// Elements per block.
const BLOCK: usize = 256;
/// Octets of elements per block.
const OCTETS: usize = BLOCK / 8;

/// See [`super::Kernel`]: of two blocks the first elements of all octets, then the second ones, and so on; of an odd last
/// block likewise.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.chunks(2 * BLOCK).zip(to.chunks_mut(2 * BLOCK)) {
        for (octet, q) in q.as_chunks::<8>().0.iter().enumerate() {
            for (element, q) in q.iter().enumerate() {
                to[element * (to.len() / 8) + octet] = *q;
            }
        }
    }
}

/// Which byte of the groups of two blocks (the second from 64 on) is the index of octet `i`.
static INDICES: [u8; 64] = bytes_by!(i => i / 32 * 64 + i % 32 / 4 * 8 + i % 4);

/// See [`super::Kernel`]. Leaves 16 times the sum of every group plus its 4-bit scale, and the scale of every block.
///
/// # Safety
/// As for [`super::Kernel::row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && row < ROWS);
    assert!(weights.len() == blocks * BLOCK_BYTES && x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    let constants = Constants::load();
    for block in (0..blocks).step_by(2) {
        let at = weights[block * BLOCK_BYTES..].as_ptr();
        prefetch(at.wrapping_add(PREFETCH), 2 * BLOCK_BYTES);
        // SAFETY: block `block` of weights and activations exists, and the next one unless this is the last.
        let sums = unsafe {
            let (q, sums_x) = (x.q.as_ptr().add(block * BLOCK), x.sums.as_ptr().add(block * 16));
            partial.d[block][row] = half_at(at);
            if block + 1 < blocks {
                let second = at.add(BLOCK_BYTES);
                partial.d[block + 1][row] = half_at(second);
                constants.sums::<2>([at.add(CODES), second.add(CODES)], q, sums_x)
            } else {
                constants.sums::<1>([at.add(CODES); 2], q, sums_x)
            }
        };
        // SAFETY: `GROUPS` is a multiple of sixteen, so there is room for two blocks; the store needs no alignment.
        unsafe { _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(8 * block).cast(), sums) };
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

    /// Of the groups of `BLOCKS` blocks, one or two, in turn: 16 times the sum plus the scale.
    ///
    /// # Safety
    /// `groups` have the 64 bytes of a block's groups, `x` the 256 activations of each of the blocks, `sums` their 16 sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx512vbmi2,gfni")]
    #[inline]
    unsafe fn sums<const BLOCKS: usize>(&self, groups: [*const u8; 2], x: *const i8, sums: *const i16) -> __m512i {
        // SAFETY: the caller's promise; the loads need no alignment.
        let groups = unsafe { [_mm512_loadu_si512(groups[0].cast()), _mm512_loadu_si512(groups[1].cast())] };
        let index = _mm512_permutex2var_epi8(groups[0], self.indices, groups[1]);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        let words = _mm512_permutex2var_epi32(groups[0], odd, groups[1]);
        let values = self.decoder.values(index, self.decoder.signs(words));
        // Octets without a block have no activations, and no sums of them.
        let octets: __mmask64 = if BLOCKS == 2 { !0 } else { (1 << OCTETS) - 1 };
        // SAFETY: the caller's promise; the load needs no alignment.
        let sums_x = unsafe { _mm512_maskz_loadu_epi16(octets as u32, sums) };
        // What the bias of the values adds goes first. Then one element of all octets at a time: four octets are a group,
        // and a lane.
        let correction = _mm512_madd_epi16(sums_x, _mm512_set1_epi16(-BIAS as i16));
        let mut sums = [correction, _mm512_setzero_si512()];
        for element in 0..8 {
            // SAFETY: the caller's promise; the load needs no alignment.
            let x = unsafe { _mm512_maskz_loadu_epi8(octets, x.add(element * OCTETS * BLOCKS)) };
            sums[element / 4] = _mm512_dpbusd_epi32(sums[element / 4], values[element], x);
        }
        // A sum has at most 19 bits, so four more fit: those on top of the word, the scale.
        _mm512_shldi_epi32::<4>(_mm512_add_epi32(sums[0], sums[1]), words)
    }
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Kernel::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    let eighths = eighths();
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, d_x) in d_x.chunks(16).enumerate() {
        let sums = turned(&partial.sums, part);
        for (half, d_x) in d_x.as_chunks::<8>().0.iter().enumerate() {
            let d = floats(&partial.d[2 * part + half]);
            for (k, d_x) in d_x.iter().enumerate() {
                let packed = sums[8 * half + k];
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
