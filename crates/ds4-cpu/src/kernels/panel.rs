//! Activation rows rearranged for the inner loop of integer products.
//!
//! That loop takes a few rows, a *block*, side by side. In a panel everything it needs of them lies in the order in which it
//! is needed, behind one pointer; rows as they are quantized would take three pointers each, which no register file holds.

use super::activation::{GROUP, QuantizedRow, QuantizedRows};
use super::matrix::Rows;
use std::ops::Range;

/// Words of four inputs in a group.
pub(crate) const QUADS: usize = GROUP / 4;
/// 32-bit words per group and row: codes, scale, correction, sums.
pub(crate) const WORDS: usize = QUADS + 3;

/// Some groups of a block of activation rows. Per group:
/// - `[QUADS][rows]` words of four int8 codes, the first lowest;
/// - `[rows]` f32 scales;
/// - `[rows]` i32 corrections: what the bias of the weights' codes adds to the sum of the group, negated;
/// - `[rows]` pairs of i16: the sums of the first and of the second sixteen codes.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub words: &'a [i32],
    pub rows: usize,
}

/// Rows of activations in blocks, for weights with one bias.
#[derive(Default)]
pub(crate) struct Panel {
    words: Vec<i32>,
    groups: usize,
    /// First row of each block, and the end.
    bounds: Vec<usize>,
}

impl Panel {
    /// Replaces the contents by results `part` of `rows`, in blocks of at most `most` rows that differ in size by one row at
    /// most. The weights' codes have `bias` added.
    pub fn fill(&mut self, x: &QuantizedRows, rows: Rows<'_>, part: Range<usize>, most: usize, bias: i32) {
        self.groups = x.cols() / GROUP;
        let blocks = part.len().div_ceil(most);
        self.bounds.clear();
        self.bounds.extend((0..=blocks).map(|i| i * part.len() / blocks.max(1)));
        self.words.resize(self.groups * WORDS * part.len(), 0);
        let mut words = self.words.as_mut_slice();
        for bounds in self.bounds.windows(2) {
            let n = bounds[1] - bounds[0];
            let (block, rest) = words.split_at_mut(self.groups * WORDS * n);
            for r in 0..n {
                put_row(x.row(rows.get(part.start + bounds[0] + r).0), bias, n, r, block);
            }
            words = rest;
        }
    }

    /// The groups `groups` of every block, with the range of rows (counted from the panel's first) that it has.
    pub fn blocks(&self, groups: Range<usize>) -> impl Iterator<Item = (Range<usize>, Block<'_>)> {
        self.bounds.windows(2).map(move |bounds| {
            let rows = bounds[1] - bounds[0];
            let first = self.groups * WORDS * bounds[0] + groups.start * WORDS * rows;
            let words = &self.words[first..][..groups.len() * WORDS * rows];
            (bounds[0]..bounds[1], Block { words, rows })
        })
    }
}

/// Writes row `r` of a block of `n` rows.
fn put_row(x: QuantizedRow<'_>, bias: i32, n: usize, r: usize, block: &mut [i32]) {
    let groups = x.q.as_chunks::<GROUP>().0.iter().zip(x.d).zip(x.sums.as_chunks::<2>().0);
    for (((q, d), &[first, second]), to) in groups.zip(block.chunks_exact_mut(WORDS * n)) {
        for (to, q) in to.chunks_exact_mut(n).zip(q.as_chunks::<4>().0) {
            to[r] = i32::from_le_bytes(q.map(|q| q as u8));
        }
        let to = &mut to[QUADS * n..];
        to[r] = d.to_bits() as i32;
        to[n + r] = -bias * (i32::from(first) + i32::from(second));
        to[2 * n + r] = i32::from(first as u16) | i32::from(second) << 16;
    }
}
