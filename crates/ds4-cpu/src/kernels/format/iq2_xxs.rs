//! IQ2_XXS: 256 elements in 66 bytes: f16 `d`, eight groups of 8 bytes. A group is four indices into a table of
//! eight magnitudes, four 7-bit sign codes and a 4-bit scale `s` on top.
//! Element = `d * (2 s + 1) / 8 * (+-magnitude)`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(in super::super) mod vbmi;

use super::super::tile::{ROWS, TileMut};
use super::f16_at;
use ds4_gguf::quant::iq2_xxs::signs;
use ds4_gguf::quant::iq2_xxs_grid::GRID;

pub(crate) const BLOCK_BYTES: usize = 66;
/// The largest magnitude.
pub(crate) const BIAS: i32 = 43;

#[inline(always)]
pub(crate) fn load_tile(rows: &[&[u8]; ROWS], mut tile: TileMut<'_>) {
    for (row, bytes) in rows.iter().enumerate() {
        for (index, block) in bytes.as_chunks::<BLOCK_BYTES>().0.iter().enumerate() {
            let d = f16_at(block);
            for (b, packed) in block[2..].as_chunks::<8>().0.iter().enumerate() {
                let group = index * 8 + b;
                let upper = u32::from_le_bytes([packed[4], packed[5], packed[6], packed[7]]);
                tile.scales[group][row] = d * (2 * (upper >> 28) + 1) as f32 * 0.125;
                let mut codes = [0u8; 32];
                for octet in 0..4 {
                    let magnitudes = u64::from_le_bytes(GRID[usize::from(packed[octet])]);
                    let signs = signs((upper >> (7 * octet)) as u8 & 127);
                    codes.as_chunks_mut::<8>().0[octet] = biased(magnitudes, signs).to_le_bytes();
                }
                tile.put(group, row, &codes);
            }
        }
    }
}

/// Eight bytes at once: 43 plus the magnitude, or minus it where the sign bit of the element is 1.
#[inline(always)]
fn biased(magnitudes: u64, signs: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW_BITS: u64 = 0x7f * ONES;
    // Byte k keeps bit k of `signs`; its top bit is set where that is not zero; then 0xff where it is.
    let own = (ONES * u64::from(signs)) & 0x8040_2010_0804_0201;
    let negative = (((own & LOW_BITS) + LOW_BITS) | own) & !LOW_BITS;
    let mask = (negative >> 7) * 0xff;
    // No byte overflows: magnitudes are at most 43.
    let (plus, minus) = (43 * ONES + magnitudes, 43 * ONES - magnitudes);
    (plus & !mask) | (minus & mask)
}
