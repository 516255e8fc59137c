//! Quantizing with AVX-512: what `quantize_row_body` computes, two registers per group.

use super::{GROUP, scales};
use std::arch::x86_64::*;

/// See `quantize_row`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn quantize_row(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let below_half = _mm512_set1_ps(super::BELOW_HALF);
    let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
    for ((x, q), (d, sums)) in groups.zip(d.iter_mut().zip(sums.as_chunks_mut::<2>().0)) {
        // SAFETY: a group has 32 numbers; no load needs alignment.
        let x = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
        let bits = [_mm512_castps_si512(x[0]), _mm512_castps_si512(x[1])];
        let largest = _mm512_max_epu32(_mm512_and_si512(bits[0], magnitude), _mm512_and_si512(bits[1], magnitude));
        let (scale, inverse) = scales(f32::from_bits(_mm512_reduce_max_epu32(largest)));
        *d = scale;
        let inverse = _mm512_set1_ps(inverse);
        for i in 0..2 {
            let x = _mm512_mul_ps(x[i], inverse);
            // Half with the sign of the number; NaN, where the scale is not usable, becomes 0.
            let half = _mm512_or_ps(below_half, _mm512_andnot_ps(_mm512_castsi512_ps(magnitude), x));
            let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
            let codes = _mm512_maskz_cvttps_epi32(is_number, _mm512_add_ps(x, half));
            // SAFETY: half a group has 16 codes; the store needs no alignment.
            unsafe { _mm_storeu_si128(q.as_mut_ptr().add(16 * i).cast(), _mm512_cvtepi32_epi8(codes)) };
            sums[i] = _mm512_reduce_add_epi32(codes) as i16;
        }
    }
}
