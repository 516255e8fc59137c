//! Q4_K: 256 elements in 144 bytes: f16 `d`, f16 `dmin`, 12 bytes with eight 6-bit scales and minima, 128 bytes
//! of 4-bit codes (each 32 bytes: low halves one group, high halves the next).
//! Element = `d * scale * code - dmin * min`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::super::tile::{Order, ROWS, TileMut};
use super::f16_at;

pub(crate) const BLOCK_BYTES: usize = 144;

/// The eight scales and the eight minima of a block's 12 packed bytes.
#[inline(always)]
pub(crate) fn unpack_scales(s: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for b in 0..4 {
        scales[b] = s[b] & 63;
        mins[b] = s[b + 4] & 63;
        scales[b + 4] = (s[b + 8] & 15) | (s[b] >> 6) << 4;
        mins[b + 4] = (s[b + 8] >> 4) | (s[b + 4] >> 6) << 4;
    }
    (scales, mins)
}

#[inline(always)]
pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (index, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let (d, dmin) = (f16_at(block), f16_at(&block[2..]));
            let (scales, mins) = unpack_scales(&block[4..16]);
            for b in 0..8 {
                let group = index * 8 + b;
                tile.scales[group][row] = d * f32::from(scales[b]);
                tile.min_factors[group][row] = [1, 1];
                tile.min_scales[group][row] = dmin * f32::from(mins[b]);
                let bytes = &block[16 + 32 * (b / 2)..][..32];
                let shift = 4 * (b % 2);
                let mut codes = [0u8; 32];
                for i in 0..32 {
                    codes[i] = (bytes[i] >> shift) & 15;
                }
                tile.put(Order::Along, group, row, &codes);
            }
        }
    }
}
