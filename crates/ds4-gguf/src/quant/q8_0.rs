//! Q8_0: 32 signed bytes and a half-precision scale.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | f16 `d` |
//! | 2..34 | 32 x i8 `q` |
//!
//! `y[i] = d q[i]`. Canonical arithmetic: `I = sum q x`, `sw = d`.

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
