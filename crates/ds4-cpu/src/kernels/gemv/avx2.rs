//! AVX2: a register holds eight partial sums of one group, or the sums of eight. Unlike the AVX-512 files, whose scales are
//! unpacked sixteen rows at a time, the first pass leaves them as floats: all formats share the second pass.

use super::super::activation::{GROUP, QuantizedRow};
use super::super::format::{iq2_xxs, mxfp4, q4_k};
use super::super::prefetch::prefetch;
use super::partial::{GROUPS, Partial, ROWS};
use super::signs::SIGNS;
use super::{Kernel, PREFETCH, check};
use ds4_gguf::TensorType;
use ds4_gguf::quant::iq2_xxs_grid::GRID;
use std::arch::x86_64::*;

/// Inputs of a block with eight groups.
const BLOCK: usize = 256;
/// Groups whose sums fill a register.
const EIGHT: usize = 8;

/// The kernels for weights of type `ty`, if it has integer products.
pub(super) fn kernel(ty: TensorType) -> Option<Kernel> {
    let (row, finish): (super::Row, super::Finish) = match ty {
        TensorType::Q8_0 => (q8_0, finish::<false>),
        TensorType::MXFP4 => (mxfp4, finish::<false>),
        TensorType::IQ2_XXS => (iq2_xxs, finish::<false>),
        TensorType::Q2_K => (q2_k, finish::<true>),
        TensorType::Q4_K => (q4_k, finish::<true>),
        _ => return None,
    };
    Some(Kernel::apart(|q, to| to.copy_from_slice(q), row, finish))
}

/// Sums of eight lanes each become the lanes of one register.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn lanes_added([a, b, c, d, e, f, g, h]: [__m256i; EIGHT]) -> __m256i {
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    // Their halves have half of each sum.
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// 32 activations of group `group`.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn group_of(x: QuantizedRow<'_>, group: usize) -> __m256i {
    let q = &x.q[group * GROUP..][..GROUP];
    // SAFETY: 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(q.as_ptr().cast()) }
}

/// The f16 number at the start of `bytes`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits.into())))
}

/// The first 32 bytes.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn load(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Eight sums to their places from group `first` on.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn put(sums: &mut [i32; GROUPS], first: usize, values: __m256i) {
    let to = &mut sums[first..][..EIGHT];
    // SAFETY: eight numbers; the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), values) };
}

/// Products of 32 magnitudes and signed codes that may be added in pairs, as eight sums.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn dot(magnitudes: __m256i, x: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, x), _mm256_set1_epi16(1))
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn q8_0(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = 34;
    let groups = check(weights, x, row, BYTES, 1);
    for first in (0..groups).step_by(EIGHT) {
        let blocks = &weights[first * BYTES..groups.min(first + EIGHT) * BYTES];
        prefetch(blocks.as_ptr().wrapping_add(PREFETCH), blocks.len());
        let mut sums = [_mm256_setzero_si256(); EIGHT];
        for (k, block) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            partial.scales[first + k][row] = half(block);
            let w = load(&block[2..]);
            // Pairs of at most 128 * 127 * 2 fit 16 bits.
            sums[k] = dot(_mm256_abs_epi8(w), _mm256_sign_epi8(group_of(x, first + k), w));
        }
        put(&mut partial.sums[row], first, lanes_added(sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn mxfp4(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = mxfp4::BLOCK_BYTES;
    let groups = check(weights, x, row, BYTES, 1);
    // Doubled values of the codes.
    let values = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    for first in (0..groups).step_by(EIGHT) {
        let blocks = &weights[first * BYTES..groups.min(first + EIGHT) * BYTES];
        prefetch(blocks.as_ptr().wrapping_add(PREFETCH), blocks.len());
        let mut sums = [_mm256_setzero_si256(); EIGHT];
        for (k, block) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            partial.scales[first + k][row] = mxfp4::scale(block[0]);
            // SAFETY: a block has sixteen bytes from its second on; the load needs no alignment.
            let codes = unsafe { _mm_loadu_si128(block.as_ptr().add(1).cast()) };
            let halves = _mm256_set_m128i(_mm_srli_epi16::<4>(codes), codes);
            let w = _mm256_shuffle_epi8(values, _mm256_and_si256(halves, _mm256_set1_epi8(15)));
            sums[k] = dot(_mm256_abs_epi8(w), _mm256_sign_epi8(group_of(x, first + k), w));
        }
        put(&mut partial.sums[row], first, lanes_added(sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn iq2_xxs(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = iq2_xxs::BLOCK_BYTES;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let d = half(block);
        let mut sums = [_mm256_setzero_si256(); EIGHT];
        for (k, packed) in block[2..].as_chunks::<8>().0.iter().enumerate() {
            let upper = u32::from_le_bytes([packed[4], packed[5], packed[6], packed[7]]);
            partial.scales[index * EIGHT + k][row] = d * (2 * (upper >> 28) + 1) as f32 * 0.125;
            let octet = |o: usize| i64::from_le_bytes(GRID[usize::from(packed[o])]);
            let factors = |o: usize| SIGNS[(upper >> (7 * o)) as usize & 127] as i64;
            let w = _mm256_setr_epi64x(octet(0), octet(1), octet(2), octet(3));
            let signs = _mm256_setr_epi64x(factors(0), factors(1), factors(2), factors(3));
            sums[k] = dot(w, _mm256_sign_epi8(group_of(x, index * EIGHT + k), signs));
        }
        put(&mut partial.sums[row], index * EIGHT, lanes_added(sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn q2_k(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = 84;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let (d, dmin) = (half(&block[80..]), half(&block[82..]));
        // SAFETY: a block has 84 bytes; the load needs no alignment.
        let packed = unsafe { _mm_loadu_si128(block.as_ptr().cast()) };
        let nibble = _mm_set1_epi8(15);
        // A word per sub-block of sixteen elements: the scales of the first four groups' in one lane, the others' in the other.
        let scales = _mm256_cvtepu8_epi16(_mm_and_si128(packed, nibble));
        let mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble));
        let of_x = &x.sums[index * 16..][..16];
        // SAFETY: sixteen numbers; the load needs no alignment.
        let of_x = unsafe { _mm256_loadu_si256(of_x.as_ptr().cast()) };
        put(&mut partial.min_sums[row], index * EIGHT, _mm256_madd_epi16(mins, of_x));
        let (first, last) =
            (_mm256_permute2x128_si256::<0x00>(scales, scales), _mm256_permute2x128_si256::<0x11>(scales, scales));
        let codes = [load(&block[16..]), load(&block[48..])];
        let mut sums = [_mm256_setzero_si256(); EIGHT];
        for (k, sum) in sums.iter_mut().enumerate() {
            let plane = _mm256_srl_epi16(codes[k / 4], _mm_cvtsi32_si128(2 * (k as i32 % 4)));
            let plane = _mm256_and_si256(plane, _mm256_set1_epi8(3));
            let pairs = _mm256_maddubs_epi16(plane, group_of(x, index * EIGHT + k));
            // The two words of this group, the first in the lower lane.
            let pair = (k as i32 % 4) * 0x0404_0404 + 0x0100_0100;
            let place = _mm256_setr_m128i(_mm_set1_epi32(pair), _mm_set1_epi32(pair + 0x0202_0202));
            let scale = _mm256_shuffle_epi8(if k < 4 { first } else { last }, place);
            *sum = _mm256_madd_epi16(pairs, scale);
            partial.scales[index * EIGHT + k][row] = d;
            partial.min_scales[index * EIGHT + k][row] = dmin;
        }
        put(&mut partial.sums[row], index * EIGHT, lanes_added(sums));
    }
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn q4_k(weights: &[u8], x: QuantizedRow<'_>, row: usize, partial: &mut Partial) {
    const BYTES: usize = q4_k::BLOCK_BYTES;
    check(weights, x, row, BYTES, EIGHT);
    for (index, block) in weights.as_chunks::<BYTES>().0.iter().enumerate() {
        prefetch(block.as_ptr().wrapping_add(PREFETCH), BYTES);
        let (d, dmin) = (half(block), half(&block[2..]));
        let (scales, mins) = q4_k::unpack_scales(&block[4..16]);
        let mut sums = [_mm256_setzero_si256(); EIGHT];
        for k in 0..EIGHT {
            let group = index * EIGHT + k;
            let codes = load(&block[16 + 32 * (k / 2)..]);
            let codes = if k % 2 == 0 { codes } else { _mm256_srli_epi16::<4>(codes) };
            sums[k] = dot(_mm256_and_si256(codes, _mm256_set1_epi8(15)), group_of(x, group));
            partial.scales[group][row] = d * f32::from(scales[k]);
            partial.min_scales[group][row] = dmin * f32::from(mins[k]);
            partial.min_sums[row][group] = i32::from(x.sums[2 * group]) + i32::from(x.sums[2 * group + 1]);
        }
        put(&mut partial.sums[row], index * EIGHT, lanes_added(sums));
    }
}

const _: () = assert!(BLOCK == EIGHT * GROUP && GROUPS.is_multiple_of(EIGHT));

/// Eight groups of eight weight rows, from `first`: a group per register, a row per lane.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn turned(sums: &[[i32; GROUPS]], first: usize) -> [__m256i; EIGHT] {
    let load = |row: usize| {
        let sums = &sums[row][first..][..EIGHT];
        // SAFETY: eight numbers; the load needs no alignment.
        unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) }
    };
    // Four groups of four rows per half register: rows 0 to 3, and rows 4 to 7.
    let quads = |r: [__m256i; 4]| {
        let (low, low2) = (_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpacklo_epi32(r[2], r[3]));
        let (high, high2) = (_mm256_unpackhi_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[2], r[3]));
        [
            _mm256_unpacklo_epi64(low, low2),
            _mm256_unpackhi_epi64(low, low2),
            _mm256_unpacklo_epi64(high, high2),
            _mm256_unpackhi_epi64(high, high2),
        ]
    };
    let (a, b) = (quads([load(0), load(1), load(2), load(3)]), quads([load(4), load(5), load(6), load(7)]));
    let mut groups = [_mm256_setzero_si256(); EIGHT];
    for e in 0..4 {
        groups[e] = _mm256_permute2x128_si256::<0x20>(a[e], b[e]);
        groups[4 + e] = _mm256_permute2x128_si256::<0x31>(a[e], b[e]);
    }
    groups
}

/// See [`super::Passes::Apart`].
#[target_feature(enable = "avx2,fma,f16c,bmi2")]
unsafe fn finish<const MINIMA: bool>(partial: &Partial, d_x: &[f32], acc: &mut [f32; ROWS]) {
    assert!(d_x.len() <= GROUPS);
    for half in 0..ROWS / EIGHT {
        let rows = half * EIGHT..(half + 1) * EIGHT;
        let floats = |of: &[f32; ROWS]| {
            let of = &of[rows.clone()];
            // SAFETY: eight numbers; the load needs no alignment.
            unsafe { _mm256_loadu_ps(of.as_ptr()) }
        };
        let mut total = floats(acc);
        for (part, d_x) in d_x.chunks(EIGHT).enumerate() {
            let first = part * EIGHT;
            let sums = turned(&partial.sums[rows.clone()], first);
            let min_sums = if MINIMA { turned(&partial.min_sums[rows.clone()], first) } else { sums };
            for (k, d_x) in d_x.iter().enumerate() {
                let d_x = _mm256_set1_ps(*d_x);
                let scale = _mm256_mul_ps(floats(&partial.scales[first + k]), d_x);
                total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[k]), scale, total);
                if MINIMA {
                    let scale = _mm256_mul_ps(floats(&partial.min_scales[first + k]), d_x);
                    total = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(min_sums[k]), scale, total);
                }
            }
        }
        let to = &mut acc[rows];
        // SAFETY: as for the load.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), total) };
    }
}
