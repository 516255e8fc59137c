//! The definition of an integer product, in plain Rust.

use super::super::panel::{Block, QUADS, WORDS};
use super::super::tile::{Minima, ROWS, Tile};
use super::Sums;

/// See [`super::Loop::multiply`].
pub(super) fn multiply(tiles: &[Tile], x: Block<'_>, acc: &mut [Sums]) {
    let n = x.rows;
    for (r, acc) in acc.iter_mut().enumerate() {
        for (tile, acc) in tiles.iter().zip(acc) {
            let groups = tile.codes().iter().zip(tile.scales()).zip(x.words.chunks_exact(WORDS * n));
            for (group, ((codes, scales), x)) in groups.enumerate() {
                let word = |i: usize| x[i * n + r];
                let d = f32::from_bits(word(QUADS) as u32);
                for o in 0..ROWS {
                    // The codes carry a bias: sum (w + bias) x - bias sum x = sum w x, exactly.
                    let mut sum = word(QUADS + 1);
                    for quad in 0..QUADS {
                        let codes = &codes[(quad * ROWS + o) * 4..][..4];
                        let q = word(quad).to_le_bytes();
                        sum += codes.iter().zip(q).map(|(&w, q)| i32::from(w) * i32::from(q as i8)).sum::<i32>();
                    }
                    acc[o] = (sum as f32).mul_add(scales[o] * d, acc[o]);
                }
                if let Some(Minima { factors, scales }) = tile.minima() {
                    let (first_sum, second_sum) = (word(QUADS + 2) as i16, word(QUADS + 2) >> 16);
                    for o in 0..ROWS {
                        let [first, second] = factors[group][o];
                        let sum = i32::from(first) * i32::from(first_sum) + i32::from(second) * second_sum;
                        acc[o] = (sum as f32).mul_add(-(scales[group][o] * d), acc[o]);
                    }
                }
            }
        }
    }
}
