//! IQ2_XXS: blocks of 66 bytes, f16 `d` and eight groups of 8 bytes: four indices into a table of eight magnitudes,
//! four 7-bit sign codes, and a 4-bit scale on top.
//!
//! Two whole blocks at a time. The table's rows, two bits per magnitude, fit eight registers, so that a few permutations
//! look 64 indices up, which takes a fraction of the time of loading 64 rows of bytes.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::super::format::iq2_xxs::vbmi::{BY_CODE, Grid, SIGN_BITS, WITH_PARITY, bytes_by};
use super::super::prefetch::prefetch;
use super::PREFETCH;
use super::partial::{GROUPS, Partial, ROWS, floats, half_at, turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 66;
/// Where the groups begin.
const CODES: usize = 2;
/// Elements per block.
const BLOCK: usize = 256;
/// See [`super::Kernel`]: the first octets of a block's eight groups, then the second ones, and so on.
pub(super) fn arrange(q: &[i8], to: &mut [i8]) {
    for (q, to) in q.as_chunks::<BLOCK>().0.iter().zip(to.as_chunks_mut::<BLOCK>().0) {
        let (q, to) = (q.as_chunks::<8>().0, to.as_chunks_mut::<8>().0);
        for (i, to) in to.iter_mut().enumerate() {
            *to = q[i % 8 * 4 + i / 8];
        }
    }
}

/// Which byte of the groups of two blocks (the second from 64 on) is the index in byte `i`: in every sixteen bytes, two
/// groups of the first block, then two of the second.
static INDICES: [u8; 64] = bytes_by!(i => i % 16 / 8 * 64 + i / 16 * 16 + i % 8 / 4 * 8 + i % 4);
/// For octet `o`: where the bits of element `i % 8` begin in the four words of a group.
static CODE_BITS: [[u8; 64]; 4] = [
    bytes_by!(i => 2 * (i % 8)),
    bytes_by!(i => 16 + 2 * (i % 8)),
    bytes_by!(i => 32 + 2 * (i % 8)),
    bytes_by!(i => 48 + 2 * (i % 8)),
];
/// Octet by octet (first those of the first block) instead of group by group.
static BY_OCTET: [u8; 64] = bytes_by!(i => 8 * (i % 8) + i / 8);
/// See [`super::Kernel`]. Leaves 16 times the sum of every group plus its 4-bit scale, and the scale of every block.
///
/// # Safety
/// As for [`super::Kernel::row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && row < ROWS);
    assert!(weights.len() == blocks * BLOCK_BYTES && x.q.len() == groups * GROUP);
    let constants = Constants::load();
    for block in (0..blocks).step_by(2) {
        // An odd last block is computed twice.
        let places = [block, (block + 1).min(blocks - 1)];
        prefetch(weights.as_ptr().wrapping_add(block * BLOCK_BYTES + PREFETCH), 2 * BLOCK_BYTES);
        // SAFETY: these blocks of weights and activations exist.
        let sums = unsafe {
            let at = [weights.as_ptr().add(places[0] * BLOCK_BYTES), weights.as_ptr().add(places[1] * BLOCK_BYTES)];
            partial.d[places[0]][row] = half_at(at[0]);
            partial.d[places[1]][row] = half_at(at[1]);
            let x = [x.q.as_ptr().add(places[0] * BLOCK), x.q.as_ptr().add(places[1] * BLOCK)];
            constants.sums([at[0].add(CODES), at[1].add(CODES)], x)
        };
        // SAFETY: `GROUPS` is a multiple of sixteen, so there is room for two blocks; the store needs no alignment.
        unsafe { _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(8 * block).cast(), sums) };
    }
}

/// The tables in registers.
struct Constants {
    grid: Grid,
    indices: __m512i,
    code_bits: [__m512i; 4],
    by_code: __m512i,
    sign_bits: __m512i,
    by_octet: __m512i,
}

impl Constants {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn load() -> Constants {
        // SAFETY: 64 bytes; the load needs no alignment.
        let bytes = |bytes: &[u8; 64]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        Constants {
            grid: Grid::load(),
            indices: bytes(&INDICES),
            code_bits: [bytes(&CODE_BITS[0]), bytes(&CODE_BITS[1]), bytes(&CODE_BITS[2]), bytes(&CODE_BITS[3])],
            by_code: bytes(&BY_CODE),
            sign_bits: bytes(&SIGN_BITS),
            by_octet: bytes(&BY_OCTET),
        }
    }

    /// Of both blocks' groups in turn: 16 times the sum plus the scale.
    ///
    /// # Safety
    /// `groups` have the 64 bytes of a block's groups, `x` its 256 activations.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    unsafe fn sums(&self, groups: [*const u8; 2], x: [*const i8; 2]) -> __m512i {
        // SAFETY: the caller's promise; the loads need no alignment.
        let groups = unsafe { [_mm512_loadu_si512(groups[0].cast()), _mm512_loadu_si512(groups[1].cast())] };
        let index = _mm512_permutex2var_epi8(groups[0], self.indices, groups[1]);
        let (low, high) = (self.grid.look_up(index, 0), self.grid.look_up(index, 4));
        // A group's four words in every 64 bits.
        let words = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
        // A bit per element, 64 for each octet of a block's eight groups.
        let signs = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<32>(groups[0]), groups[1]);
        let signs = _mm512_multishift_epi64_epi8(self.sign_bits, signs);
        let signs = _mm512_gf2p8affine_epi64_epi8::<0>(signs, _mm512_set1_epi64(WITH_PARITY));
        let mut masks = [0u64; 8];
        // SAFETY: 64 bytes; the store needs no alignment.
        unsafe {
            _mm512_storeu_si512(masks.as_mut_ptr().cast(), _mm512_permutexvar_epi8(self.by_octet, signs));
        }
        // Two partial sums per group.
        let mut sums = [_mm512_setzero_si512(); 2];
        for i in 0..2 {
            for o in 0..4 {
                let codes = _mm512_multishift_epi64_epi8(self.code_bits[o], words[i]);
                let magnitudes = _mm512_permutexvar_epi8(codes, self.by_code);
                // SAFETY: the caller's promise; the load needs no alignment.
                let x = unsafe { _mm512_loadu_si512(x[i].add(64 * o).cast()) };
                let x = _mm512_mask_sub_epi8(x, masks[4 * i + o], _mm512_setzero_si512(), x);
                sums[i] = _mm512_dpbusd_epi32(sums[i], magnitudes, x);
            }
        }
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        let sum = _mm512_add_epi32(
            _mm512_permutex2var_epi32(sums[0], even, sums[1]),
            _mm512_permutex2var_epi32(sums[0], odd, sums[1]),
        );
        let scale = _mm512_srli_epi32::<28>(_mm512_permutex2var_epi32(groups[0], odd, groups[1]));
        // A sum has at most 19 bits, so four more fit.
        _mm512_or_si512(_mm512_slli_epi32::<4>(sum), scale)
    }
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Kernel::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn finish(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    let (quarter, eighth) = (_mm512_set1_ps(0.25), _mm512_set1_ps(0.125));
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for (part, d_x) in d_x.chunks(16).enumerate() {
        let sums = turned(&partial.sums, part);
        for (half, d_x) in d_x.as_chunks::<8>().0.iter().enumerate() {
            let d = floats(&partial.d[2 * part + half]);
            for (k, d_x) in d_x.iter().enumerate() {
                let packed = sums[8 * half + k];
                let s = _mm512_cvtepi32_ps(_mm512_and_si512(packed, _mm512_set1_epi32(15)));
                // d (2 s + 1) / 8; only the product with the activations' scale is rounded.
                let scale = _mm512_mul_ps(d, _mm512_fmadd_ps(s, quarter, eighth));
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*d_x));
                let sum = _mm512_cvtepi32_ps(_mm512_srai_epi32::<4>(packed));
                total = _mm512_fmadd_ps(sum, scale, total);
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}
