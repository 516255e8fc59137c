//! Q2_K: 256 elements in 84 bytes: 16 bytes with a 4-bit scale (low) and minimum (high) per 16 elements, 64 bytes of
//! 2-bit codes (each 32 bytes: four planes of 32 elements), f16 `d`, f16 `dmin`.
//! Element = `d * scale * code - dmin * min`.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod vbmi;

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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::super::isa::Isa;
    use super::super::super::tile::GROUP_CODES;
    use super::super::iq2_xxs;
    use super::*;

    const BLOCKS: usize = 3;

    /// Codes, scales, factors and scales of minima that a loader writes.
    type Loaded = (Vec<[u8; GROUP_CODES]>, Vec<[f32; ROWS]>, Vec<[[i16; 2]; ROWS]>, Vec<[f32; ROWS]>);

    fn loaded(rows: &[&[u8]; ROWS], load: impl Fn(&[&[u8]; ROWS], TileMut<'_>)) -> Loaded {
        let mut codes = vec![[0xaa; GROUP_CODES]; 8 * BLOCKS];
        let (mut scales, mut min_scales) = (vec![[f32::NAN; ROWS]; 8 * BLOCKS], vec![[f32::NAN; ROWS]; 8 * BLOCKS]);
        let mut min_factors = vec![[[-1; 2]; ROWS]; 8 * BLOCKS];
        load(
            rows,
            TileMut {
                codes: &mut codes,
                scales: &mut scales,
                min_factors: &mut min_factors,
                min_scales: &mut min_scales,
                bias: 0,
            },
        );
        (codes, scales, min_factors, min_scales)
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
        for block in bytes.chunks_exact_mut(BLOCK_BYTES) {
            (block[81], block[83]) = (block[81] & 0x3f, block[83] & 0x3f);
        }
        let rows: [&[u8]; ROWS] =
            std::array::from_fn(|row| &bytes[row * BLOCKS * BLOCK_BYTES..][..BLOCKS * BLOCK_BYTES]);
        let expected = loaded(&rows, load_tile);
        if Isa::available().iter().any(|isa| isa.to_string() == "avx512") {
            // SAFETY: the processor has these instructions.
            assert!(loaded(&rows, |rows, tile| unsafe { avx512::load_tile(rows, tile) }) == expected);
            if iq2_xxs::vbmi::is_offered() {
                // SAFETY: as above.
                assert!(loaded(&rows, |rows, tile| unsafe { vbmi::load_tile(rows, tile) }) == expected);
            }
        }
    }
}
