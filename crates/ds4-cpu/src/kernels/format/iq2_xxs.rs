//! IQ2_XXS: 256 elements in 66 bytes: f16 `d`, eight groups of 8 bytes. A group is four indices into a table of
//! eight magnitudes, four 7-bit sign codes and a 4-bit scale `s` on top.
//! Element = `d * (2 s + 1) / 8 * (+-magnitude)`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(in super::super) mod vbmi;

use super::super::tile::{Order, ROWS, TileMut};
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
                tile.put(Order::Across, group, row, &codes);
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::super::isa::Isa;
    use super::super::super::tile::GROUP_CODES;
    use super::*;

    const BLOCKS: usize = 3;

    /// Codes and scales that a loader writes.
    fn loaded(
        rows: &[&[u8]; ROWS],
        bias: u8,
        load: impl Fn(&[&[u8]; ROWS], TileMut<'_>),
    ) -> (Vec<[u8; GROUP_CODES]>, Vec<[f32; ROWS]>) {
        let mut codes = vec![[0xaa; GROUP_CODES]; 8 * BLOCKS];
        let mut scales = vec![[f32::NAN; ROWS]; 8 * BLOCKS];
        let (min_factors, min_scales) = (&mut [][..], &mut [][..]);
        load(rows, TileMut { codes: &mut codes, scales: &mut scales, min_factors, min_scales, bias });
        (codes, scales)
    }

    /// A processor uses the best loader that it can; here each is asked.
    #[test]
    fn loaders_agree_on_random_blocks() {
        let mut state = 1u32;
        let mut bytes = vec![0u8; ROWS * BLOCKS * BLOCK_BYTES];
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        // Scales are numbers: infinities and the like would not equal themselves.
        bytes.chunks_exact_mut(BLOCK_BYTES).for_each(|block| block[1] &= 0x3f);
        let rows: [&[u8]; ROWS] =
            std::array::from_fn(|row| &bytes[row * BLOCKS * BLOCK_BYTES..][..BLOCKS * BLOCK_BYTES]);
        let biased = loaded(&rows, BIAS as u8, load_tile);
        let mut signed = biased.clone();
        signed.0.as_flattened_mut().iter_mut().for_each(|code| *code = code.wrapping_sub(BIAS as u8));
        let isas: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        if isas.iter().any(|isa| isa == "avx512") {
            for (bias, expected) in [(BIAS as u8, biased), (0, signed)] {
                // SAFETY: the processor has these instructions.
                assert_eq!(loaded(&rows, bias, |rows, tile| unsafe { avx512::load_tile(rows, tile) }), expected);
                if vbmi::is_offered() {
                    // SAFETY: as above.
                    assert_eq!(loaded(&rows, bias, |rows, tile| unsafe { vbmi::load_tile(rows, tile) }), expected);
                }
            }
        }
    }
}
