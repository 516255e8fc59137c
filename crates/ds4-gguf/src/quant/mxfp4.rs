//! MXFP4: 32 E2M1 floats and one power-of-two scale (OCP Microscaling Formats 1.0).
//!
//! | bytes | content |
//! |---|---|
//! | 0 | biased exponent `e` |
//! | 1..17 | codes; byte `l` holds element `l` (low nibble) and `l + 16` (high nibble) |
//!
//! `y = 2^(e - 127) value`. The values are halves, so everything here works with doubled integers
//! and the scale `2^(e - 128)`. Canonical arithmetic: `I = sum doubled x`, `sw = 2^(e - 128)`.

use super::activation::ActivationRow;
use super::{BlockFormat, int_dot};
use crate::TensorType;

/// The format; see the module's text.
pub struct Mxfp4;

/// Where the codes begin.
pub const CODES: usize = 1;

/// Twice the value of each code: bit 3 is the sign, the rest 0, 0.5, 1, 1.5, 2, 3, 4, 6.
pub const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`, also where that is a subnormal number. The standard reserves `e = 255` for NaN;
/// decoders in use treat it as an exponent like any other, and [`BlockFormat::check`] reports it.
pub const fn half_scale(e: u8) -> f32 {
    let bits = match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => (e as u32 - 1) << 23,
    };
    f32::from_bits(bits)
}

/// The 32 doubled values of a block.
pub fn doubled(block: &[u8]) -> impl Iterator<Item = i8> + '_ {
    let codes = &block[CODES..];
    let low = codes.iter().map(|byte| DOUBLED[usize::from(byte & 15)]);
    let high = codes.iter().map(|byte| DOUBLED[usize::from(byte >> 4)]);
    low.chain(high)
}

impl BlockFormat for Mxfp4 {
    const TYPE: TensorType = TensorType::MXFP4;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let scale = half_scale(block[0]);
        for (y, value) in out.iter_mut().zip(doubled(block)) {
            *y = scale * f32::from(value);
        }
    }

    fn dot(block: &[u8], x: ActivationRow<'_>, acc: f32) -> f32 {
        let sum = int_dot(doubled(block).map(i32::from), x.q);
        (sum as f32).mul_add(half_scale(block[0]) * x.d[0], acc)
    }

    fn check(block: &[u8]) -> Result<(), &'static str> {
        match block[0] {
            255 => Err("has the exponent 255, which stands for NaN"),
            _ => Ok(()),
        }
    }
}
