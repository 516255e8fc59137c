//! Q8_0: 32 elements in 34 bytes: f16 `d`, 32 signed codes. Element = `d * code`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::super::tile::{Order, ROWS, TileMut};
use super::f16_at;

pub(crate) const BLOCK_BYTES: usize = 34;
pub(crate) const BIAS: i32 = 128;

#[inline(always)]
pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (group, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            tile.scales[group][row] = f16_at(block);
            let mut codes = [0u8; 32];
            for i in 0..32 {
                // Adding 128 to a signed byte flips its top bit.
                codes[i] = block[2 + i] ^ 0x80;
            }
            tile.put(Order::Along, group, row, &codes);
        }
    }
}
