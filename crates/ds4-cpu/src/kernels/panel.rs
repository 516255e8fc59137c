//! Activation rows rearranged for the inner loop of integer products.
//!
//! That loop takes a few rows, a *block*, side by side. In a panel everything it needs of them lies in the order in which it
//! is needed, behind one pointer; rows as they are quantized would take three pointers each, which no register file holds.

use super::activation::{GROUP, QuantizedRow, QuantizedRows};
use super::aligned::AlignedVec;
use super::format;
use super::matrix::Rows;
use super::tile::Order;
use ds4_gguf::TensorType;
use std::ops::Range;

/// Words of four inputs in a group.
pub(crate) const QUADS: usize = GROUP / 4;
/// 32-bit words per group and row: codes, scale, correction, sums.
pub(crate) const WORDS: usize = QUADS + 3;
/// Groups of a block that are written together: they stay in the L1 cache.
const AT_ONCE: usize = 16;

/// How the rows of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Most rows of a block.
    pub most: usize,
    /// Where their codes are.
    pub codes: CodesLie,
}

/// Where the codes of a group of a block are, in words of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodesLie {
    /// `[QUADS][rows]`: quad by quad.
    Quads,
    /// `[rows][QUADS]`: row by row. Every block has as many places as the largest.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    Rows,
    /// `[QUADS / 2][rows / 2][2][2]`: of two quads, two rows at a time, both words of the first and both of the second.
    /// Every block has as many places as the largest.
    #[cfg_attr(not(target_arch = "aarch64"), expect(dead_code))]
    Pairs,
}

impl Layout {
    /// The number of places that every block has, if that is not the number of its rows.
    pub fn places(self) -> Option<usize> {
        (self.codes != CodesLie::Quads).then_some(self.most)
    }
}

/// Some groups of a block of activation rows. Per group:
/// - the words of four int8 codes, the first lowest, in the order of the weights, as [`CodesLie`] says;
/// - `[rows]` f32 scales;
/// - `[rows]` i32 corrections: what the bias of the weights' codes adds to the sum of the group, negated;
/// - `[rows]` pairs of i16: the sums of the first and of the second sixteen codes.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub words: &'a [i32],
    pub rows: usize,
}

/// Rows of activations in blocks, for weights of one type.
#[derive(Default)]
pub(crate) struct Panel {
    words: AlignedVec<i32>,
    groups: usize,
    /// First row of each block, and the end.
    bounds: Vec<usize>,
    /// The number of places of every block, if they have as many.
    places: Option<usize>,
}

impl Panel {
    /// Replaces the contents by results `part` of `rows`, in blocks that differ in size by one row at most. They are for weights
    /// of type `ty`.
    pub fn fill(&mut self, x: &QuantizedRows, rows: Rows<'_>, part: Range<usize>, layout: Layout, ty: TensorType) {
        self.groups = x.cols() / GROUP;
        self.places = layout.places();
        let blocks = part.len().div_ceil(layout.most);
        self.bounds.clear();
        self.bounds.extend((0..=blocks).map(|i| i * part.len() / blocks.max(1)));
        let places = self.places.map_or(part.len(), |places| places * blocks);
        self.words.resize(self.groups * WORDS * places);
        let (bias, order) = (format::bias(ty), format::order(ty));
        let mut words = self.words.as_mut_slice();
        for bounds in self.bounds.windows(2) {
            let n = self.places.unwrap_or(bounds[1] - bounds[0]);
            let (block, rest) = words.split_at_mut(self.groups * WORDS * n);
            // Some groups of all rows at a time: what one row leaves of a cache line the next ones fill while it is at hand.
            for (i, block) in block.chunks_mut(AT_ONCE * WORDS * n).enumerate() {
                for r in 0..bounds[1] - bounds[0] {
                    let row = x.row(rows.get(part.start + bounds[0] + r).0);
                    let row = row.slice(i * AT_ONCE, block.len() / (WORDS * n));
                    match layout.codes {
                        CodesLie::Quads => put_row(row, order, bias, n, r, block, |quad| quad * n + r),
                        CodesLie::Rows => put_row(row, order, bias, n, r, block, |quad| r * QUADS + quad),
                        CodesLie::Pairs => put_row(row, order, bias, n, r, block, |quad| {
                            quad / 2 * (2 * n) + r / 2 * 4 + r % 2 * 2 + quad % 2
                        }),
                    }
                }
            }
            words = rest;
        }
    }

    /// The groups `groups` of every block, with the range of rows (counted from the panel's first) that it has.
    pub fn blocks(&self, groups: Range<usize>) -> impl Iterator<Item = (Range<usize>, Block<'_>)> {
        self.bounds.windows(2).enumerate().map(move |(i, bounds)| {
            let rows = self.places.unwrap_or(bounds[1] - bounds[0]);
            let before = self.places.map_or(bounds[0], |places| places * i);
            let first = self.groups * WORDS * before + groups.start * WORDS * rows;
            let words = &self.words.as_slice()[first..][..groups.len() * WORDS * rows];
            (bounds[0]..bounds[1], Block { words, rows })
        })
    }
}

/// Writes row `r` of a block with `n` places, its quads where `place` says.
#[inline(always)]
fn put_row(
    x: QuantizedRow<'_>,
    order: Order,
    bias: i32,
    n: usize,
    r: usize,
    block: &mut [i32],
    place: impl Fn(usize) -> usize,
) {
    match order {
        Order::Along => put_groups(x, |q| words(q, Order::Along), bias, n, r, block, place),
        Order::Across => put_groups(x, |q| words(q, Order::Across), bias, n, r, block, place),
    }
}

/// As [`put_row`], with the words that `words` makes of the codes of a group.
#[inline(always)]
fn put_groups(
    x: QuantizedRow<'_>,
    words: impl Fn(&[i8; GROUP]) -> [u32; QUADS],
    bias: i32,
    n: usize,
    r: usize,
    block: &mut [i32],
    place: impl Fn(usize) -> usize,
) {
    let groups = x.q.as_chunks::<GROUP>().0.iter().zip(x.d).zip(x.sums.as_chunks::<2>().0);
    for (((q, d), &[first, second]), to) in groups.zip(block.chunks_exact_mut(WORDS * n)) {
        let (codes, to) = to.split_at_mut(QUADS * n);
        for (quad, word) in words(q).into_iter().enumerate() {
            codes[place(quad)] = word as i32;
        }
        to[r] = d.to_bits() as i32;
        to[n + r] = -bias * (i32::from(first) + i32::from(second));
        to[2 * n + r] = i32::from(first as u16) | i32::from(second) << 16;
    }
}

/// The quads of a group, the first code of each lowest.
#[inline(always)]
fn words(q: &[i8; GROUP], order: Order) -> [u32; QUADS] {
    let mut words = [0; QUADS];
    for (word, q) in words.iter_mut().zip(q.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(q.map(|q| q as u8));
    }
    if order == Order::Along {
        return words;
    }
    #[cfg(target_arch = "x86_64")]
    return across(q);
    #[cfg(not(target_arch = "x86_64"))]
    // Byte by byte through memory takes several times as long.
    {
        let [a, a2, b, b2, c, c2, d, d2] = words;
        let ([w0, w1, w2, w3], [w4, w5, w6, w7]) = (turned([a, b, c, d]), turned([a2, b2, c2, d2]));
        [w0, w1, w2, w3, w4, w5, w6, w7]
    }
}

/// The quads of [`Order::Across`], with instructions that every x86-64 processor has.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn across(q: &[i8; GROUP]) -> [u32; QUADS] {
    use std::arch::x86_64::*;
    let mut words = [0u32; QUADS];
    // SAFETY: SSE2 is part of x86-64; a group is two registers, and so are its words; loads and stores need no alignment.
    unsafe {
        let pairs = |half: __m128i| _mm_unpacklo_epi8(half, _mm_srli_si128::<8>(half));
        let first = pairs(_mm_loadu_si128(q.as_ptr().cast()));
        let second = pairs(_mm_loadu_si128(q.as_ptr().add(GROUP / 2).cast()));
        _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_unpacklo_epi16(first, second));
        _mm_storeu_si128(words.as_mut_ptr().add(QUADS / 2).cast(), _mm_unpackhi_epi16(first, second));
    }
    words
}

/// Four words of four bytes, rows for columns.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turned([a, b, c, d]: [u32; 4]) -> [u32; 4] {
    const EVEN: u32 = 0x00ff_00ff;
    let (ab_even, ab_odd) = (a & EVEN | (b & EVEN) << 8, a >> 8 & EVEN | b & !EVEN);
    let (cd_even, cd_odd) = (c & EVEN | (d & EVEN) << 8, c >> 8 & EVEN | d & !EVEN);
    let joined = |ab: u32, cd: u32| (ab & 0xffff | cd << 16, ab >> 16 | cd & 0xffff_0000);
    let ((first, third), (second, fourth)) = (joined(ab_even, cd_even), joined(ab_odd, cd_odd));
    [first, second, third, fourth]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_quads_of_the_order() {
        let q: [i8; GROUP] = std::array::from_fn(|i| (8 * i) as u8 as i8);
        for order in [Order::Along, Order::Across] {
            assert_eq!(words(&q, order), order.quads(&q).map(|quad| u32::from_le_bytes(quad.map(|q| q as u8))));
        }
    }
}
