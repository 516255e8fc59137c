//! Q2_K: blocks of 84 bytes: 16 scales (low half of a byte) and minima (high half) of 16 elements each, 64 bytes of
//! 2-bit codes, f16 `d`, f16 `dmin`. The codes are four planes; plane `j` has group `j` in the first 32 bytes and group
//! `4 + j` in the others.
//!
//! The same block of sixteen weight rows at a time, a row per lane: turning the words of codes, four planes each, costs less than
//! turning the sums of every group and of its minima.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::super::activation::{GROUP, QuantizedRow};
use super::Ahead;
use super::partial::{GROUPS, Partial, ROWS, columns, floats, half_at, quads_turned};
use std::arch::x86_64::*;

const BLOCK_BYTES: usize = 84;
/// Where the codes begin.
const CODES: usize = 16;
/// Where `d` stands.
const D: usize = 80;
/// Where `dmin` stands.
const DMIN: usize = 82;
/// Groups of a block.
const BLOCK: usize = 8;
/// Planes of codes.
const PLANES: usize = 4;

/// See [`super::Passes::Together`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn sixteen(
    weights: &[&[u8]],
    x: QuantizedRow<'_>,
    mut ahead: Ahead,
    partial: &mut Partial,
    acc: &mut [f32; ROWS],
) {
    let groups = x.d.len();
    let blocks = groups / BLOCK;
    assert!(groups <= GROUPS && groups.is_multiple_of(BLOCK) && (1..=ROWS).contains(&weights.len()));
    assert!(x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    assert!(weights.iter().all(|weights| weights.len() == blocks * BLOCK_BYTES));
    // Where there are fewer rows the last one is computed again; nobody reads that.
    let rows: [*const u8; ROWS] = std::array::from_fn(|i| weights[i.min(weights.len() - 1)].as_ptr());
    // Sixteen rows are in use together, so that it is the next sixteen which are needed next.
    ahead.at = weights[weights.len() - 1].as_ptr_range().end;
    // SAFETY: sixteen floats; the load needs no alignment.
    let mut total = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
    for block in 0..blocks {
        let at = block * BLOCK_BYTES;
        // SAFETY: every row has block `block`, as have the activations and their sums; loads need no alignment.
        unsafe {
            for row in 0..ROWS {
                partial.d[block][row] = half_at(rows[row].add(at + D));
                partial.dmin[block][row] = half_at(rows[row].add(at + DMIN));
            }
            let codes = columns(|row| rows[row].add(at + CODES));
            let packed = packed(&rows, at);
            let (q, sums) = (x.q.as_ptr().add(block * BLOCK * GROUP), x.sums.as_ptr().add(block * BLOCK * 2));
            let (mut first, mut second) = (Halves::new(), Halves::new());
            products(&codes[..8], q, &mut first);
            ahead.ask(ROWS * BLOCK_BYTES / 2);
            products(&codes[8..], q.add(PLANES * GROUP), &mut second);
            ahead.ask(ROWS * BLOCK_BYTES / 2);
            let (d, dmin) = (floats(&partial.d[block]), floats(&partial.dmin[block]));
            for group in 0..BLOCK {
                let (halves, plane) = (if group < PLANES { &first } else { &second }, group % PLANES);
                let (scale, min) = pairs(packed[group / 2], group % 2);
                // The sums of both halves of a group fit 16 bits; odd planes have four times what they stand for.
                let upper = _mm512_slli_epi32::<16>(halves.0[1][plane]);
                let sum = _mm512_madd_epi16(_mm512_mask_blend_epi16(0xaaaa_aaaa, halves.0[0][plane], upper), scale);
                let sum = if plane % 2 == 0 { sum } else { _mm512_srai_epi32::<2>(sum) };
                let of_x = _mm512_set1_epi32(sums.add(2 * group).cast::<i32>().read_unaligned());
                let min_sum = _mm512_madd_epi16(min, of_x);
                let d_x = _mm512_set1_ps(x.d[block * BLOCK + group]);
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, d_x), total);
                total = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(min_sum), _mm512_mul_ps(dmin, d_x), total);
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), total) };
}

/// The packed scales and minima of the block at `at` of sixteen rows, four bytes of each row at a time.
///
/// # Safety
/// There is such a block in each row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn packed(rows: &[*const u8; ROWS], at: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise; the load needs no alignment.
    let load = |row: usize| unsafe { _mm_loadu_si128(rows[row].add(at).cast()) };
    let mut quads = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        let four = _mm512_castsi128_si512(load(i));
        let four = _mm512_inserti32x4::<1>(four, load(4 + i));
        let four = _mm512_inserti32x4::<2>(four, load(8 + i));
        quads[i] = _mm512_inserti32x4::<3>(four, load(12 + i));
    }
    quads_turned(quads)
}

/// Of group `odd` of two, whose packed scales and minima these are: the two scales, and the two minima, as 16-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn pairs(packed: __m512i, odd: usize) -> (__m512i, __m512i) {
    let nibble = _mm512_set1_epi8(15);
    // Bytes 0 and 1 of a word, or 2 and 3, each in front of a zero.
    let places = if odd == 0 {
        _mm512_set4_epi32(0x800d_800cu32 as i32, 0x8009_8008u32 as i32, 0x8005_8004u32 as i32, 0x8001_8000u32 as i32)
    } else {
        _mm512_set4_epi32(0x800f_800eu32 as i32, 0x800b_800au32 as i32, 0x8007_8006u32 as i32, 0x8003_8002u32 as i32)
    };
    let both = _mm512_shuffle_epi8(packed, places);
    (_mm512_and_si512(both, nibble), _mm512_srli_epi16::<4>(both))
}

/// Sums of products, of the first and second sixteen elements of groups in each of the planes.
struct Halves([[__m512i; PLANES]; 2]);

impl Halves {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Halves {
        Halves([[_mm512_setzero_si512(); PLANES]; 2])
    }
}

/// The sums of products of the four groups of eight words of codes, those of odd planes four times as large as they should be.
///
/// A function of its own: with more around it the compiler keeps activations in registers, of which it then has too few.
///
/// # Safety
/// `x` has the 128 activations of the groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline(never)]
unsafe fn products(codes: &[__m512i], x: *const i8, to: &mut Halves) {
    assert!(codes.len() == 8);
    let (even, odd) = (_mm512_set1_epi8(3), _mm512_set1_epi8(12));
    for half in 0..2 {
        let mut sums = [_mm512_setzero_si512(); PLANES];
        for word in 0..4 {
            let low = codes[4 * half + word];
            // What comes from the next byte is above what counts.
            let high = _mm512_srli_epi16::<4>(low);
            let planes = [
                _mm512_and_si512(low, even),
                _mm512_and_si512(low, odd),
                _mm512_and_si512(high, even),
                _mm512_and_si512(high, odd),
            ];
            for plane in 0..PLANES {
                // SAFETY: the caller's promise.
                let x = unsafe { x.add(plane * GROUP + 16 * half + 4 * word).cast::<i32>().read_unaligned() };
                sums[plane] = _mm512_dpbusd_epi32(sums[plane], planes[plane], _mm512_set1_epi32(x));
            }
        }
        to.0[half] = sums;
    }
}
