//! Q2_K: blocks of 84 bytes: 16 scales (low half of a byte) and minima (high half) of 16 elements each, 64 bytes of
//! 2-bit codes, f16 `d`, f16 `dmin`. The codes are four planes; plane `j` has group `j` in the first 32 bytes and group
//! `4 + j` in the others.

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
/// As for [`super::Passes::Apart`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    let groups = x.d.len();
    let blocks = groups / 8;
    assert!(groups <= GROUPS && groups.is_multiple_of(8) && row < ROWS);
    assert!(weights.len() == blocks * BLOCK_BYTES && x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    let constants = Constants::load();
    for block in (0..blocks).step_by(2) {
        prefetch(weights[block * BLOCK_BYTES..].as_ptr().wrapping_add(PREFETCH), 2 * BLOCK_BYTES);
        let mut one = |block: usize| {
            // SAFETY: block `block` of weights, of activations and of their sums exists; there is room for eight groups
            // from `8 block`, since `8 blocks <= groups <= GROUPS`; the store needs no alignment.
            unsafe {
                let at = weights.as_ptr().add(block * BLOCK_BYTES);
                partial.d[block][row] = half_at(at.add(D));
                partial.dmin[block][row] = half_at(at.add(DMIN));
                let (q, sums) = (x.q.as_ptr().add(block * BLOCK), x.sums.as_ptr().add(block * 16));
                let (sum, min_sum) = constants.sums(at, q, sums);
                _mm256_storeu_si256(partial.min_sums[row].as_mut_ptr().add(8 * block).cast(), min_sum);
                sum
            }
        };
        let halves = [one(block), if block + 1 < blocks { one(block + 1) } else { _mm512_setzero_si512() }];
        let sums = constants.joined(halves);
        // SAFETY: `GROUPS` is a multiple of sixteen, so there is room for two blocks; the store needs no alignment.
        unsafe { _mm512_storeu_si512(partial.sums[row].as_mut_ptr().add(8 * block).cast(), sums) };
    }
}

/// What all blocks need, in registers.
struct Constants {
    /// Where the scales of planes 0 and 1, and of 2 and 3, stand: as 16-bit numbers, those of two planes in turn for the
    /// four sums that each has in a 128-bit lane. That lane `l` has sub-block `2 j + l` of plane `j`, 8 more in the second
    /// half.
    scales: [__m512i; 2],
    /// The first halves of the groups of two blocks, and the second ones.
    first: __m512i,
    second: __m512i,
}

impl Constants {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn load() -> Constants {
        // SAFETY: 64 bytes; the load needs no alignment.
        let register = |bytes: &[u8; 64]| unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        Constants {
            scales: [register(&SCALES[0]), register(&SCALES[1])],
            first: _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13),
            second: _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15),
        }
    }

    /// Of a block: the sums of products of its sub-blocks, in the order that [`Constants::joined`] takes, and the sums of
    /// minima of its groups.
    ///
    /// # Safety
    /// There are 84 bytes of weights, 256 activations and 16 sums of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn sums(&self, block: *const u8, x: *const i8, sums: *const i16) -> (__m512i, __m256i) {
        let nibble = _mm_set1_epi8(15);
        // SAFETY: the caller's promise; no load needs alignment.
        let (packed, codes) = unsafe { (_mm_loadu_si128(block.cast()), _mm512_loadu_si512(block.add(CODES).cast())) };
        let dot = |codes: __m512i, plane: usize| {
            // SAFETY: the caller's promise; the load needs no alignment.
            let x = unsafe { _mm512_loadu_si512(x.add(64 * plane).cast()) };
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(codes, _mm512_set1_epi8(3)), x)
        };
        let (a, b) = (dot(codes, 0), dot(_mm512_srli_epi16::<2>(codes), 1));
        let (c, d) = (dot(_mm512_srli_epi16::<4>(codes), 2), dot(_mm512_srli_epi16::<6>(codes), 3));
        // Four products fit 16 bits: two planes share a register, and the multiplication adds pairs.
        let scales = _mm512_broadcast_i32x4(_mm_and_si128(packed, nibble));
        let scaled = |a: __m512i, b: __m512i, place: __m512i| {
            _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_shuffle_epi8(scales, place))
        };
        let (ab, cd) = (scaled(a, b, self.scales[0]), scaled(c, d, self.scales[1]));
        let (ab, cd) = (_mm512_castsi512_ps(ab), _mm512_castsi512_ps(cd));
        let even = _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(ab, cd));
        let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(ab, cd));
        let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble));
        // SAFETY: the caller's promise; the load needs no alignment.
        let min_sums = _mm256_madd_epi16(mins, unsafe { _mm256_loadu_si256(sums.cast()) });
        (_mm512_add_epi32(even, odd), min_sums)
    }

    /// The sums of the groups of two blocks. Of each block, the 128-bit lane `2 h + s` has sub-block `s` of the groups
    /// `4 h` to `4 h + 3`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn joined(&self, [a, b]: [__m512i; 2]) -> __m512i {
        _mm512_add_epi32(_mm512_permutex2var_epi64(a, self.first, b), _mm512_permutex2var_epi64(a, self.second, b))
    }
}

/// See [`Constants::scales`]; a top bit gives a zero.
static SCALES: [[u8; 64]; 2] = [places(0), places(2)];

const fn places(plane: usize) -> [u8; 64] {
    let mut places = [0x80; 64];
    let mut word = 0;
    while word < 32 {
        // Eight words per lane, the first four of the first plane.
        let (lane, plane) = (word / 8, plane + word % 8 / 4);
        places[2 * word] = (lane / 2 * 8 + 2 * plane + lane % 2) as u8;
        word += 1;
    }
    places
}

/// See [`super::Kernel`].
///
/// # Safety
/// As for [`super::Passes::Apart`].
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
