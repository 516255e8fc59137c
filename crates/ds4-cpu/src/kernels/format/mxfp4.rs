//! MXFP4: 32 elements in 17 bytes: exponent byte `e`, 16 bytes of E2M1 codes (elements 0..16 in the low
//! halves, 16..32 in the high halves). Element = `2^(e - 127) * value`, here `2^(e - 128) * (2 * value)`.

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx512;

use super::super::tile::{Order, ROWS, TileMut};

pub(crate) const BLOCK_BYTES: usize = 17;
pub(crate) const BIAS: i32 = 12;

/// The doubled value of an E2M1 code plus [`BIAS`], in operations that vectorize, which a table does not.
#[inline(always)]
const fn biased_value(code: u8) -> u8 {
    let m = code & 7;
    // Doubled magnitudes: 0, 1, 2, 3, 4, 6, 8, 12.
    let steep = if m < 6 { m.wrapping_mul(2).wrapping_sub(4) } else { m.wrapping_mul(4).wrapping_sub(16) };
    let magnitude = if m < 4 { m } else { steep };
    if code < 8 { 12 + magnitude } else { 12 - magnitude }
}

/// `2^(e - 128)`; subnormal for `e` 0 and 1. 255, which the standard reserves for NaN, is an exponent like any other.
#[inline(always)]
pub(crate) fn scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => (u32::from(e) - 1) << 23,
    })
}

#[inline(always)]
pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (group, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            tile.scales[group][row] = scale(block[0]);
            let mut codes = [0u8; 32];
            for i in 0..16 {
                codes[i] = biased_value(block[1 + i] & 15);
                codes[i + 16] = biased_value(block[1 + i] >> 4);
            }
            tile.put(Order::Along, group, row, &codes);
        }
    }
}
