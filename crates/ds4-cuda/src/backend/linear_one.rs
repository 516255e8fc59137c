//! Matrix products of a batch of one row, with what comes before them and beside them in the same launch.

use super::executor::Executor;
use super::linear::Linear;
use super::workspace::Activations;
use crate::device::DeviceError;
use crate::params::{self, MOST_PRODUCTS};
use crate::weights::Storage;

/// What becomes of a product with one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Outcome {
    /// float32 in `y`.
    Plain = 0,
    /// A row of [`Into`], in the forms that the next product takes.
    Forms = 1,
    /// The gate of a gated pair, whose other half is the next in the list: SwiGLU of both, as a row of [`Into`].
    Gated = 2,
}

/// Where products go that become another product's input.
#[derive(Clone, Copy)]
pub(super) struct Into {
    pub rows: params::Rows,
    pub row: usize,
    /// Clamp of the SwiGLU.
    pub limit: f32,
    /// Whether float16 is needed beside int8.
    pub halves: bool,
}

/// What the input row comes of.
#[derive(Clone, Copy, Default)]
pub(super) enum Source {
    /// Its forms, or, where they are not there, float32.
    #[default]
    Row,
    /// float32, normalized with these weights.
    Normed(u64),
    /// The hyper-connection's streams.
    Streamed(params::HyperFinish),
}

/// What comes with the products.
#[derive(Clone, Copy, Default)]
pub(super) struct One {
    pub source: Source,
    pub into: Option<Into>,
    /// The row's entries in the cache: their kinds.
    pub cache: Option<(params::Cache, u32)>,
}

/// Most columns of a row that is normalized on the way.
pub(super) const MOST_NORMED: usize = 1024;
/// Bytes of a warp's stage, and of the sums of two units.
pub(super) const STAGE: usize = 2048 + 128;
const SUMS: usize = 2 * 32 * 16 * 4;
/// Bytes of shared memory that the kernel has beside these.
const FIXED: usize = 2 << 10;

/// A block's size: warps, stages of each, bytes of shared memory.
type Shape = (usize, usize, usize);

impl Executor {
    /// The block's size for products of a row of so many blocks of columns; none where shared memory is too short for it.
    fn one_shape(&self, blocks: u32, halves: bool) -> Option<Shape> {
        let row = blocks as usize * (256 + 32 + 64 + if halves { 1024 } else { 0 });
        let shape = |(warps, stages): (usize, usize)| (warps, stages, warps * stages * STAGE + SUMS + row);
        let fits = |shape: &Shape| shape.2 + FIXED <= self.device.shared_memory_limit();
        // A multiprocessor has one block: deep stages cost nothing.
        let most = (16, if halves { 5 } else { 4 });
        [most, (16, 3), (8, 3)].into_iter().map(shape).find(fits)
    }

    /// Whether products of this row run on the kernel for one row.
    pub(super) fn one_fits(&self, x: &Activations, list: &[Linear]) -> bool {
        let halves = list.iter().any(|l| Self::has_halves(&l.weight));
        self.one_shape(x.params.blocks, halves).is_some()
    }

    /// Products with one row, all on matrix instructions.
    pub(super) fn one_products(&self, x: &Activations, list: &[Linear], one: One) -> Result<(), DeviceError> {
        // Gated pairs are not torn apart: whoever asks for them has few products.
        for (number, part) in list.chunks(MOST_PRODUCTS).enumerate() {
            let mut all: params::SmallProducts = Self::empty();
            let end;
            (all.products, end) = Self::units(part);
            let integers = part.iter().any(|l| l.weight.storage == Storage::Q8_0);
            let halves = part.iter().any(|l| l.weight.storage == Storage::F16);
            all.input = self.one_input(x, one.source, integers, halves);
            all.units = end;
            if let Some(into) = one.into {
                (all.out, all.out_row) = (into.rows, into.row as u32);
                (all.limit, all.halves) = (into.limit, u32::from(into.halves));
            }
            if let (Some((cache, roles)), 0) = (one.cache, number) {
                (all.cache, all.roles) = (cache, roles);
            }
            let Some((warps, stages, memory)) = self.one_shape(x.params.blocks, halves) else {
                return Err(DeviceError::new("a block's shared memory is too short for a row".to_owned()));
            };
            let most = self.device.multiprocessors().saturating_sub(all.roles).max(1);
            // Where a multiprocessor is left over, it computes what is not wanted yet.
            let spare = u32::from(matches!(one.source, Source::Streamed(_)));
            let grid = [(end + spare).min(most) + all.roles, 1, 1];
            let kernel = match stages {
                5 => "linear_one_5",
                4 => "linear_one_4",
                _ => "linear_one_3",
            };
            self.launch_with(kernel, grid, 32 * warps as u32, memory as u32, &all)?;
        }
        Ok(())
    }

    /// The products, cut into units of a launch's numbering, and where that ends. At most [`MOST_PRODUCTS`].
    pub(super) fn units(list: &[Linear]) -> ([params::SmallProduct; MOST_PRODUCTS], u32) {
        let mut all = Self::empty::<[params::SmallProduct; MOST_PRODUCTS]>();
        let mut end = 0;
        for (i, (slot, linear)) in all.iter_mut().zip(list).enumerate() {
            let blocks = linear.weight.params.blocks;
            let per = blocks.div_ceil(8);
            let segments = blocks.div_ceil(per);
            // A block has 16 warps, and units no more than 32 items: 16 if no product is gated.
            let wide = segments <= 4 && linear.group_rows.is_multiple_of(64) && linear.outcome != Outcome::Gated;
            let tiles = if wide { 4 } else { 2 };
            let begin = end;
            // The other half of a pair has no units of its own.
            if i == 0 || list[i - 1].outcome != Outcome::Gated {
                end += linear.weight.rows().div_ceil(tiles * 16);
            }
            *slot = params::SmallProduct {
                w: linear.weight.params,
                y: linear.y,
                unit_begin: begin,
                unit_end: end,
                group_rows: linear.group_rows as u32,
                scale: linear.scale,
                outcome: linear.outcome as u32,
                segments,
                segment_blocks: per,
                tiles,
            };
        }
        (all, end)
    }

    fn one_input(&self, x: &Activations, source: Source, integers: bool, halves: bool) -> params::OneInput {
        let ready = (!integers || x.integers.get()) && (!halves || x.halves.get());
        let mut input = params::OneInput {
            x: x.params,
            eps: self.model.config().eps,
            integers: u32::from(integers),
            halves: u32::from(halves),
            ..Self::empty()
        };
        // Numbers as in `InputKind`.
        match source {
            Source::Row if ready => input.kind = 0,
            Source::Row => input.kind = 1,
            Source::Normed(norm) => (input.kind, input.norm) = (2, norm),
            Source::Streamed(hyper) => (input.kind, input.hyper) = (3, hyper),
        }
        input
    }
}
