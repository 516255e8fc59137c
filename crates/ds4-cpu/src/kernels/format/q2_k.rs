//! Q2_K: 256 elements in 84 bytes: 16 bytes with a 4-bit scale (low) and minimum (high) per 16 elements, 64 bytes of
//! 2-bit codes (each 32 bytes: four planes of 32 elements), f16 `d`, f16 `dmin`.
//! Element = `d * scale * code - dmin * min`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::super::tile::{Order, ROWS, TileMut};
use super::f16_at;

pub(crate) const BLOCK_BYTES: usize = 84;

#[inline(always)]
pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (index, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let (d, dmin) = (f16_at(&block[80..]), f16_at(&block[82..]));
            for b in 0..8 {
                let group = index * 8 + b;
                let packed = [block[2 * b], block[2 * b + 1]];
                tile.scales[group][row] = d;
                tile.min_factors[group][row] = [i16::from(packed[0] >> 4), i16::from(packed[1] >> 4)];
                tile.min_scales[group][row] = dmin;
                let bytes = &block[16 + 32 * (b / 4)..][..32];
                let shift = 2 * (b % 4);
                let mut codes = [0u8; 32];
                for i in 0..32 {
                    // Scale times code is at most 45, so the tile can hold the product.
                    codes[i] = ((bytes[i] >> shift) & 3) * (packed[i / 16] & 15);
                }
                tile.put(Order::Along, group, row, &codes);
            }
        }
    }
}
