//! Q2_K: 256 two-bit codes, a 4-bit scale and a 4-bit minimum per 16.
//!
//! | bytes | content |
//! |---|---|
//! | 0..16 | one byte per sub-block of 16: scale in the low nibble, minimum in the high one |
//! | 16..80 | codes; see [`code_place`] |
//! | 80..82 | f16 `d` |
//! | 82..84 | f16 `dmin` |
//!
//! `y[i] = d scale code - dmin minimum`. Canonical arithmetic, with two sub-blocks 0 and 1 per
//! group of 32: `I = scale0 sum0(code x) + scale1 sum1(code x)`, `sw = d`,
//! `M = minimum0 sum0(x) + minimum1 sum1(x)`, `mw = dmin`.

use super::activation::{ActivationRow, GROUP};
use super::affine_search::{self, Form};
use super::{BlockFormat, f16_at, int_dot};
use crate::TensorType;

/// The format; see the module's text.
pub struct Q2K;

/// Elements per scale and minimum.
pub const SUB: usize = 16;
/// Where the codes begin.
pub const CODES: usize = 16;
/// Where `d` stands.
pub const D: usize = 80;
/// Where `dmin` stands.
pub const DMIN: usize = 82;

/// Byte and shift of the code of element `i`. Each half of the block has 32 bytes; byte `l` holds
/// the elements `l`, `l + 32`, `l + 64` and `l + 96` of its half, lowest bits first.
pub const fn code_place(i: usize) -> (usize, u32) {
    let (half, plane, lane) = (i / 128, i % 128 / 32, i % 32);
    (CODES + 32 * half + lane, 2 * plane as u32)
}

/// The 16 codes (0 to 3) of sub-block `b`, which share a shift and lie in consecutive bytes.
pub fn codes(block: &[u8], b: usize) -> impl Iterator<Item = u8> + '_ {
    let (byte, shift) = code_place(SUB * b);
    block[byte..][..SUB].iter().map(move |byte| (byte >> shift) & 3)
}

/// Scale and minimum of sub-block `b`, each 0 to 15.
pub fn scale_min(block: &[u8], b: usize) -> (u8, u8) {
    (block[b] & 15, block[b] >> 4)
}

impl BlockFormat for Q2K {
    const TYPE: TensorType = TensorType::Q2_K;

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
        const FORM: Form = Form { sub: SUB, max_code: 3, max_scale: 15, shrinks: &[0.0, 0.08, 0.16, 0.24] };
        let encoded = affine_search::encode(&FORM, x, w);
        block.fill(0);
        for (b, (scale, min)) in encoded.scales.iter().zip(encoded.mins).enumerate() {
            block[b] = scale | min << 4;
        }
        for (i, code) in encoded.codes.iter().enumerate() {
            let (byte, shift) = code_place(i);
            block[byte] |= code << shift;
        }
        block[D..DMIN].copy_from_slice(&encoded.d.to_le_bytes());
        block[DMIN..].copy_from_slice(&encoded.dmin.to_le_bytes());
    }

    fn dot(block: &[u8], x: ActivationRow<'_>, mut acc: f32) -> f32 {
        let (d, dmin) = (f16_at(block, D), f16_at(block, DMIN));
        for (g, dx) in x.d.iter().enumerate() {
            let (mut sum, mut min_sum) = (0, 0);
            for b in [2 * g, 2 * g + 1] {
                let (scale, min) = scale_min(block, b);
                let codes = codes(block, b).map(i32::from);
                sum += i32::from(scale) * int_dot(codes, &x.q[SUB * b..][..SUB]);
                min_sum += i32::from(min) * i32::from(x.sums[b]);
            }
            acc = (sum as f32).mul_add(d * dx, acc);
            acc = (min_sum as f32).mul_add(-(dmin * dx), acc);
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

const _: () = assert!(GROUP == 2 * SUB);
