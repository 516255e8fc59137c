//! IQ2_XXS: 256 elements as grid rows, signs and a 4-bit scale per 32.
//!
//! | bytes | content |
//! |---|---|
//! | 0..2 | f16 `d` |
//! | 2..66 | eight groups of 8 bytes, one per 32 elements |
//!
//! A group is four grid indices (one byte per octet of elements) and a little-endian u32 with four
//! sign codes of 7 bits and, on top, the scale `s` of 4 bits. `y = d (2 s + 1) / 8 * (+-magnitude)`.
//! Canonical arithmetic: `I = sum +-magnitude x`, `sw = d (2 s + 1) * 0.125`, which is exact.

use super::activation::{ActivationRow, GROUP};
use super::iq2_xxs_grid::GRID;
use super::{BlockFormat, f16_at, int_dot, iq2_xxs_search};
use crate::TensorType;

/// The format; see the module's text.
pub struct Iq2Xxs;

/// Where the groups begin.
pub const GROUPS: usize = 2;
/// Bytes per group.
pub const GROUP_BYTES: usize = 8;

/// The eight sign bits (bit k for element k, 1 = negative) of a 7-bit code: the eighth makes the
/// number of minus signs even.
pub const fn signs(code: u8) -> u8 {
    code | (code.count_ones() as u8 & 1) << 7
}

/// One group of 32 elements.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    indices: [u8; 4],
    packed: u32,
}

impl Group {
    /// Group `g` (0 to 7) of a block.
    pub fn of(block: &[u8], g: usize) -> Group {
        let raw = &block[GROUPS + GROUP_BYTES * g..][..GROUP_BYTES];
        Group {
            indices: [raw[0], raw[1], raw[2], raw[3]],
            packed: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
        }
    }

    /// `2 s + 1`: 1, 3, ... 31.
    pub fn odd_scale(self) -> u8 {
        2 * (self.packed >> 28) as u8 + 1
    }

    /// Octet `o` (0 to 3): magnitudes (8, 25 or 43) with their signs.
    pub fn octet(self, o: usize) -> [i8; 8] {
        let mut values = GRID[usize::from(self.indices[o])].map(|magnitude| magnitude as i8);
        let signs = signs((self.packed >> (7 * o)) as u8 & 127);
        for (k, value) in values.iter_mut().enumerate() {
            // All ones where the sign bit is set: `!v + 1` is `-v`.
            let mask = -((signs >> k & 1) as i8);
            *value = (*value ^ mask) - mask;
        }
        values
    }

    /// The four octets in order.
    pub fn signed(self) -> [[i8; 8]; 4] {
        [0, 1, 2, 3].map(|o| self.octet(o))
    }
}

impl BlockFormat for Iq2Xxs {
    const TYPE: TensorType = TensorType::IQ2_XXS;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, y) in out.chunks_exact_mut(GROUP).enumerate() {
            let group = Group::of(block, g);
            let scale = d * f32::from(group.odd_scale()) * 0.125;
            for (y, value) in y.iter_mut().zip(group.signed().as_flattened()) {
                *y = scale * f32::from(*value);
            }
        }
    }

    fn quantize(x: &[f32], w: &[f32], block: &mut [u8]) {
        iq2_xxs_search::encode(x, w, block);
    }

    fn dot(block: &[u8], x: ActivationRow<'_>, mut acc: f32) -> f32 {
        let d = f16_at(block, 0);
        for (g, dx) in x.d.iter().enumerate() {
            let group = Group::of(block, g);
            let weights = group.signed();
            let weights = weights.as_flattened().iter().map(|&v| i32::from(v));
            let sum = int_dot(weights, &x.q[GROUP * g..][..GROUP]);
            let scale = d * f32::from(group.odd_scale()) * 0.125;
            acc = (sum as f32).mul_add(scale * dx, acc);
        }
        acc
    }

    fn check(block: &[u8]) -> Result<(), &'static str> {
        match f16_at(block, 0).is_finite() {
            true => Ok(()),
            false => Err("has a scale that is infinite or not a number"),
        }
    }
}
