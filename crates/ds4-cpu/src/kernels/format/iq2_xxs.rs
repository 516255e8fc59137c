//! IQ2_XXS: 256 elements in 66 bytes: f16 `d`, eight groups of 8 bytes. A group is four indices into a table of
//! eight magnitudes, four 7-bit sign codes and a 4-bit scale `s` on top.
//! Element = `d * (2 s + 1) / 8 * (+-magnitude)`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::super::tile::{ROWS, TileMut};
use super::f16_at;
use ds4_gguf::quant::iq2_xxs::signs;
use ds4_gguf::quant::iq2_xxs_grid::GRID;

pub(crate) const BLOCK_BYTES: usize = 66;
/// The largest magnitude.
pub(crate) const BIAS: i32 = 43;

pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (index, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let d = f16_at(block);
            for (b, packed) in block[2..].as_chunks::<8>().0.iter().enumerate() {
                let group = index * 8 + b;
                let upper = u32::from_le_bytes([packed[4], packed[5], packed[6], packed[7]]);
                tile.scales[group][row] = d * (2 * (upper >> 28) + 1) as f32 * 0.125;
                let mut codes = [0u8; 32];
                for (octet, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let negative = signs((upper >> (7 * octet)) as u8 & 127);
                    for (k, code) in codes.iter_mut().enumerate() {
                        let magnitude = GRID[usize::from(packed[octet])][k];
                        *code = if negative >> k & 1 == 0 { 43 + magnitude } else { 43 - magnitude };
                    }
                }
                tile.put(group, row, &codes);
            }
        }
    }
}
