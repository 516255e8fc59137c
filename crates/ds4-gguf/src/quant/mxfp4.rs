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

/// The code nearest to `x`, halfway cases to the even code.
fn nearest_code(x: f32) -> u8 {
    let a = x.abs();
    let code = match a {
        _ if a <= 0.25 => 0,
        _ if a < 0.75 => 1,
        _ if a <= 1.25 => 2,
        _ if a < 1.75 => 3,
        _ if a <= 2.5 => 4,
        _ if a < 3.5 => 5,
        _ if a <= 5.0 => 6,
        _ => 7,
    };
    if x < 0.0 && code > 0 { code | 8 } else { code }
}

/// Largest exponent with which every code decodes to a finite number: 6 * 2^125.
const LARGEST: u8 = 252;

/// Codes for the exponent `e`, and their weighted squared error in units of the scale.
fn codes_for(e: u8, x: &[f32], w: &[f32]) -> ([u8; 32], f64) {
    // In double precision, where the reciprocal of every scale is a normal number.
    let scale = 2.0 * f64::from(half_scale(e));
    let mut codes = [0; 32];
    let mut error = 0.0;
    for ((code, &x), &w) in codes.iter_mut().zip(x).zip(w) {
        let relative = f64::from(x) / scale;
        *code = nearest_code(relative as f32);
        let rest = relative - 0.5 * f64::from(DOUBLED[usize::from(*code)]);
        error += f64::from(w) * rest * rest;
    }
    (codes, error * scale * scale)
}

impl BlockFormat for Mxfp4 {
    const TYPE: TensorType = TensorType::MXFP4;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let scale = half_scale(block[0]);
        for (y, value) in out.iter_mut().zip(doubled(block)) {
            *y = scale * f32::from(value);
        }
    }

    /// The standard takes the exponent that puts the largest element into [4, 8) and clips at 6. Its
    /// two neighbours are tried as well; blocks that are representable come back unchanged.
    fn quantize(x: &[f32], w: &[f32], block: &mut [u8]) {
        let amax = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        block.fill(0);
        if amax == 0.0 {
            return;
        }
        let biased = (amax.to_bits() >> 23) as u8;
        let standard = biased.saturating_sub(2);
        let mut best = (standard, codes_for(standard, x, w));
        let above = standard.saturating_add(1).min(LARGEST);
        for e in [above, standard.saturating_sub(1)] {
            let found = codes_for(e, x, w);
            if found.1 < best.1.1 {
                best = (e, found);
            }
        }
        let (e, (codes, _)) = best;
        block[0] = e;
        let (low, high) = codes.split_at(16);
        for ((byte, low), high) in block[CODES..].iter_mut().zip(low).zip(high) {
            *byte = low | high << 4;
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
