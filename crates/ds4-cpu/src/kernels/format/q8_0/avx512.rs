//! Q8_0 with AVX-512.

use super::super::super::tile::{ROWS, TileMut};
use super::super::avx512::{Columns, store_quad, store_scales};
use super::BLOCK_BYTES;
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn load_tile(rows: &[&[u8]; ROWS], tile: TileMut<'_>) {
    let columns = Columns::new(rows);
    // Adding 128 to a signed byte flips its top bit; or nothing is added.
    let bias = _mm512_set1_epi8(tile.bias as i8);
    for (group, (codes, scales)) in tile.codes.iter_mut().zip(tile.scales).enumerate() {
        let at = group * BLOCK_BYTES;
        store_scales(scales, columns.half(at));
        for piece in 0..2 {
            let words = columns.words(at + 2 + 16 * piece);
            for (j, &words) in words.iter().enumerate() {
                store_quad(codes, 4 * piece + j, _mm512_xor_si512(words, bias));
            }
        }
    }
}
