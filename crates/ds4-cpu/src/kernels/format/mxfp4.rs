//! MXFP4: 32 elements in 17 bytes: exponent byte `e`, 16 bytes of E2M1 codes (elements 0..16 in the low
//! halves, 16..32 in the high halves). Element = `2^(e - 127) * value`, here `2^(e - 128) * (2 * value)`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::super::tile::{ROWS, TileMut};

pub(crate) const BLOCK_BYTES: usize = 17;
pub(crate) const BIAS: i32 = 12;

/// Doubled values of the sixteen E2M1 codes plus [`BIAS`].
pub(crate) const BIASED_VALUES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// `2^(e - 128)`; subnormal for `e` 0 and 1, not a number for the reserved 255.
#[inline]
pub(crate) fn scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        255 => 0x7fc0_0000,
        _ => (u32::from(e) - 1) << 23,
    })
}

pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (group, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            tile.scales[group][row] = scale(block[0]);
            let codes: [u8; 32] = std::array::from_fn(|i| {
                let byte = block[1 + i % 16];
                BIASED_VALUES[usize::from(if i < 16 { byte & 15 } else { byte >> 4 })]
            });
            tile.put(group, row, &codes);
        }
    }
}
