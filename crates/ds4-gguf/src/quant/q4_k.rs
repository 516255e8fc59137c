//! Q4_K: 256 four-bit codes, a 6-bit scale and a 6-bit minimum per 32.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | f16 `d` |
//! | 2..4 | f16 `dmin` |
//! | 4..16 | eight scales and eight minima, 6 bits each; see [`scale_min`] |
//! | 16..144 | codes; byte `l` of each 32 holds element `l` (low) and `l + 32` (high) of its 64 |
//!
//! `y[i] = d scale code - dmin minimum`. Canonical arithmetic: `I = sum code x`, `sw = d scale`,
//! `M = sum x`, `mw = dmin minimum`.

use super::activation::{ActivationRow, GROUP};
use super::affine_search::{self, Form};
use super::{BlockFormat, f16_at, int_dot};
use crate::TensorType;

/// The format; see the module's text.
pub struct Q4K;

/// Elements per scale and minimum.
pub const SUB: usize = 32;
/// Where `d` stands.
pub const D: usize = 0;
/// Where `dmin` stands.
pub const DMIN: usize = 2;
/// Where the packed scales and minima begin.
pub const SCALES: usize = 4;
/// Where the codes begin.
pub const CODES: usize = 16;

/// Scale and minimum of sub-block `b` (0 to 7), each 0 to 63.
///
/// The first four have a byte each; the others take their low four bits from a shared byte and
/// their high two bits from the top of the bytes of the first four.
pub fn scale_min(block: &[u8], b: usize) -> (u8, u8) {
    let s = &block[SCALES..CODES];
    if b < 4 {
        (s[b] & 63, s[b + 4] & 63)
    } else {
        ((s[b + 4] & 15) | (s[b - 4] >> 6) << 4, (s[b + 4] >> 4) | (s[b] >> 6) << 4)
    }
}

/// The 32 codes (0 to 15) of sub-block `b`.
pub fn codes(block: &[u8], b: usize) -> impl Iterator<Item = u8> + '_ {
    let shift = 4 * (b % 2);
    block[CODES + SUB * (b / 2)..][..SUB].iter().map(move |byte| (byte >> shift) & 15)
}

impl BlockFormat for Q4K {
    const TYPE: TensorType = TensorType::Q4_K;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, D), f16_at(block, DMIN));
        for (b, y) in out.chunks_exact_mut(SUB).enumerate() {
            let (scale, min) = scale_min(block, b);
            let (step, base) = (d * f32::from(scale), dmin * f32::from(min));
            for (y, code) in y.iter_mut().zip(codes(block, b)) {
                *y = step * f32::from(code) - base;
            }
        }
    }

    fn quantize(x: &[f32], w: &[f32], block: &mut [u8]) {
        const FORM: Form = Form { sub: SUB, max_code: 15, max_scale: 63, shrinks: &[-0.02, 0.0, 0.025, 0.05] };
        let encoded = affine_search::encode(&FORM, x, w);
        block[D..DMIN].copy_from_slice(&encoded.d.to_le_bytes());
        block[DMIN..SCALES].copy_from_slice(&encoded.dmin.to_le_bytes());
        for b in 0..4 {
            // The inverse of `scale_min`: sub-blocks `b` and `b + 4` share the bytes of `b`.
            let (s, m) = (encoded.scales, encoded.mins);
            block[SCALES + b] = s[b] | (s[b + 4] >> 4) << 6;
            block[SCALES + b + 4] = m[b] | (m[b + 4] >> 4) << 6;
            block[SCALES + b + 8] = (s[b + 4] & 15) | (m[b + 4] & 15) << 4;
        }
        let pairs = encoded.codes.chunks_exact(2 * SUB);
        for (codes, bytes) in pairs.zip(block[CODES..].chunks_exact_mut(SUB)) {
            let (low, high) = codes.split_at(SUB);
            for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
                *byte = low | high << 4;
            }
        }
    }

    fn dot(block: &[u8], x: ActivationRow<'_>, mut acc: f32) -> f32 {
        let (d, dmin) = (f16_at(block, D), f16_at(block, DMIN));
        for (b, dx) in x.d.iter().enumerate() {
            let (scale, min) = scale_min(block, b);
            let sum = int_dot(codes(block, b).map(i32::from), &x.q[SUB * b..][..SUB]);
            let x_sum = i32::from(x.sums[2 * b]) + i32::from(x.sums[2 * b + 1]);
            acc = (sum as f32).mul_add(d * f32::from(scale) * dx, acc);
            acc = (x_sum as f32).mul_add(-(dmin * f32::from(min) * dx), acc);
        }
        acc
    }

    fn check(block: &[u8]) -> Result<(), &'static str> {
        match f16_at(block, D).is_finite() && f16_at(block, DMIN).is_finite() {
            true => Ok(()),
            false => Err("has a scale that is infinite or not a number"),
        }
    }
}

const _: () = assert!(GROUP == SUB);
