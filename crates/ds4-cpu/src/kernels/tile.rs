//! Sixteen weight rows decoded and rearranged once, to be multiplied with many activation rows.
//!
//! All block formats become the same thing: unsigned codes in the order in which a dot-product
//! instruction with sixteen 32-bit lanes wants them (lane = weight row, four consecutive inputs per
//! lane), and per group of 32 inputs one f32 scale per row. Signed codes are stored with a bias, which the
//! exact integer sum of the activations takes out again.

use super::activation::GROUP;
use super::aligned::AlignedVec;
use super::format;
use super::isa::Isa;
use ds4_gguf::TensorType;

/// Weight rows per tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of codes per group of 32 inputs.
pub(crate) const GROUP_CODES: usize = GROUP * ROWS;

/// The codes of one group: `[8 quads of inputs][16 rows][4 inputs]`; [`Order`] says which inputs.
pub(crate) type Codes = [u8; GROUP_CODES];

/// Which four inputs of a group a quad has. Sums are exact, so the order is each format's own choice; the activations follow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Quad `q` has inputs `4 q` to `4 q + 3`.
    Along,
    /// Quad `q` has inputs `q`, `8 + q`, `16 + q` and `24 + q`.
    Across,
}

impl Order {
    /// The quads of a group.
    #[inline(always)]
    pub fn quads<T: Copy>(self, group: &[T; GROUP]) -> [[T; 4]; GROUP / 4] {
        match self {
            Order::Along => std::array::from_fn(|q| std::array::from_fn(|i| group[4 * q + i])),
            Order::Across => std::array::from_fn(|q| std::array::from_fn(|i| group[8 * i + q])),
        }
    }
}

/// A tile; see the module's description. `groups` = inputs / 32.
pub(crate) struct Tile {
    /// Added to every signed code.
    pub bias: i32,
    /// `[groups]`, code + bias.
    codes: AlignedVec<u8>,
    /// `[groups][16]` weight scales.
    scales: AlignedVec<f32>,
    /// For formats with minima, else empty: `[groups][16][2]` factors of the activation sums of the
    /// first and second 16 inputs.
    min_factors: AlignedVec<i16>,
    /// `[groups][16]` scales of the minima, or empty.
    min_scales: AlignedVec<f32>,
}

/// The minima of a tile, per group and row: `-scale * (factors[0] * sum of the first 16 activations +
/// factors[1] * sum of the second 16)`.
#[derive(Clone, Copy)]
pub(crate) struct Minima<'a> {
    pub factors: &'a [[[i16; 2]; ROWS]],
    pub scales: &'a [[f32; ROWS]],
}

/// Where a format writes a tile; slices as in [`Tile`].
pub(crate) struct TileMut<'a> {
    pub codes: &'a mut [Codes],
    pub scales: &'a mut [[f32; ROWS]],
    pub min_factors: &'a mut [[[i16; 2]; ROWS]],
    pub min_scales: &'a mut [[f32; ROWS]],
    /// What is added to every signed code: the bias of the format, or nothing.
    pub bias: u8,
}

impl Tile {
    pub fn new() -> Tile {
        Tile {
            bias: 0,
            codes: AlignedVec::new(),
            scales: AlignedVec::new(),
            min_factors: AlignedVec::new(),
            min_scales: AlignedVec::new(),
        }
    }

    /// Decodes sixteen rows, or the same blocks of each: `rows` are slices of `cols` elements of type `ty`. Signed codes are those
    /// without the bias, which only some instruction sets can do.
    pub fn load(&mut self, isa: Isa, ty: TensorType, cols: usize, rows: &[&[u8]; ROWS], signed: bool) {
        let row_bytes = cols / ty.block_len() * ty.block_bytes();
        assert!(cols.is_multiple_of(ty.block_len()) && rows.iter().all(|row| row.len() == row_bytes));
        let groups = cols / GROUP;
        let min_groups = if format::has_minima(ty) { groups } else { 0 };
        self.bias = if signed { 0 } else { format::bias(ty) };
        self.codes.resize(groups * GROUP_CODES);
        self.scales.resize(groups * ROWS);
        self.min_factors.resize(min_groups * ROWS * 2);
        self.min_scales.resize(min_groups * ROWS);
        let tile = TileMut {
            codes: self.codes.as_mut_slice().as_chunks_mut().0,
            scales: self.scales.as_mut_slice().as_chunks_mut().0,
            min_factors: bytemuck::cast_slice_mut(self.min_factors.as_mut_slice()),
            min_scales: self.min_scales.as_mut_slice().as_chunks_mut().0,
            bias: self.bias as u8,
        };
        format::load_tile(isa, ty, rows, tile);
    }

    /// Puts the words of every two quads side by side: the codes of a group are then `[4][16 rows][8 inputs]`.
    #[cfg(target_arch = "aarch64")]
    pub fn pair_quads(&mut self) {
        for quads in self.codes.as_mut_slice().as_chunks_mut::<{ 2 * ROWS * 4 }>().0 {
            let before = *quads;
            let (first, second) = before.as_chunks::<4>().0.split_at(ROWS);
            for (to, words) in quads.as_chunks_mut::<8>().0.iter_mut().zip(first.iter().zip(second)) {
                to[..4].copy_from_slice(words.0);
                to[4..].copy_from_slice(words.1);
            }
        }
    }

    /// Codes of all groups.
    #[inline]
    pub fn codes(&self) -> &[Codes] {
        self.codes.as_slice().as_chunks().0
    }

    /// Scales of all groups.
    #[inline]
    pub fn scales(&self) -> &[[f32; ROWS]] {
        self.scales.as_slice().as_chunks().0
    }

    /// Factors and scales of the minima of all groups; `None` for formats without.
    #[inline]
    pub fn minima(&self) -> Option<Minima<'_>> {
        let scales = self.min_scales.as_slice().as_chunks().0;
        let factors = bytemuck::cast_slice(self.min_factors.as_slice());
        (!scales.is_empty()).then_some(Minima { factors, scales })
    }
}

impl TileMut<'_> {
    /// Stores the 32 codes (bias added) of weight row `row` in group `group`, in the order of the format.
    #[inline(always)]
    pub fn put(&mut self, order: Order, group: usize, row: usize, codes: &[u8; GROUP]) {
        let to = self.codes[group].as_chunks_mut::<4>().0;
        for (quad, four) in order.quads(codes).into_iter().enumerate() {
            to[quad * ROWS + row] = four;
        }
    }
}
