//! Q8_0: 32 signed bytes and a half-precision scale.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | f16 `d` |
//! | 2..34 | 32 x i8 `q` |
//!
//! `y[i] = d q[i]`. Canonical arithmetic: `I = sum q x`, `sw = d`.

use half::f16;

use super::activation::ActivationRow;
use super::{BlockFormat, f16_at, int_dot};
use crate::TensorType;

/// The format; see the module's text.
pub struct Q8_0;

/// Where the codes begin.
pub const CODES: usize = 2;

impl BlockFormat for Q8_0 {
    const TYPE: TensorType = TensorType::Q8_0;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (y, &q) in out.iter_mut().zip(&block[CODES..]) {
            *y = d * f32::from(q as i8);
        }
    }

    /// The reference rule, which leaves the weights aside: `d = max|x| / 127`, codes by the unrounded
    /// `d`, halves away from zero.
    fn quantize(x: &[f32], _w: &[f32], block: &mut [u8]) {
        let amax = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        // Beyond what half precision can scale, the largest elements are clipped.
        let d = (amax / 127.0).min(f16::MAX.to_f32());
        let id = if d > 0.0 { 1.0 / d } else { 0.0 };
        block[..CODES].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for (q, x) in block[CODES..].iter_mut().zip(x) {
            // The limits concern clipped elements and scales whose reciprocal is infinite.
            *q = (x * id).round().clamp(-127.0, 127.0) as i8 as u8;
        }
    }

    fn dot(block: &[u8], x: ActivationRow<'_>, acc: f32) -> f32 {
        let sum = int_dot(block[CODES..].iter().map(|&q| i32::from(q as i8)), x.q);
        (sum as f32).mul_add(f16_at(block, 0) * x.d[0], acc)
    }

    fn check(block: &[u8]) -> Result<(), &'static str> {
        match f16_at(block, 0).is_finite() {
            true => Ok(()),
            false => Err("has a scale that is infinite or not a number"),
        }
    }
}
