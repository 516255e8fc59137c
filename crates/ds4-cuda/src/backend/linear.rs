//! Matrix products: which kernel for which types and batch.

use super::executor::Executor;
use super::is_int8;
use super::linear_one::{self, One, Outcome};
use super::workspace::Activations;
use crate::device::DeviceError;
use crate::params::{self, MOST_PRODUCTS};
use crate::weights::{DeviceWeight, Storage};

/// `y = scale * W x`.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub weight: DeviceWeight,
    pub y: u64,
    pub y_stride: usize,
    pub scale: f32,
    /// Rows of x per batch row, and rows of W that belong to each; 1 and 0 where W has one input.
    pub groups: usize,
    pub group_rows: usize,
    /// What becomes of the product, with one row.
    pub outcome: Outcome,
}

impl Linear {
    /// A product with one input.
    pub fn new(weight: DeviceWeight, y: u64) -> Self {
        Self {
            weight,
            y,
            y_stride: weight.rows() as usize,
            scale: 1.0,
            groups: 1,
            group_rows: 0,
            outcome: Outcome::Plain,
        }
    }
}

/// Bytes of shared memory of `linear_tile` (`TileMemory`), where a block can have as much, and elsewhere.
const TILE_MEMORY: [u32; 2] = [157 << 10, 98 << 10];
/// Bytes of shared memory of the kernels on warpgroup instructions: the most that a block can have.
pub(super) const GROUP_MEMORY: u32 = 227 << 10;
/// Threads of a block of `linear_wgmma`.
const GROUP_THREADS: u32 = 384;
/// Threads of a block of the kernels for large batches on int8 instructions.
pub(super) const TILE_THREADS: u32 = 512;
/// Rows of the batch and of the matrix that a block of it computes.
const TILE_SIDE: usize = 128;
/// Largest batches of the kernels that read weights once for a few columns.
const SEVERAL: usize = 64;
/// Of these kernels: columns at a time, stages of a warp's ring, places for a unit's sums.
const FEW: [(&str, usize, usize, usize); 3] =
    [("linear_few_8", 8, 4, 2), ("linear_few_16", 16, 3, 2), ("linear_few_32", 32, 3, 1)];
/// Bytes of a unit's sums of a column.
const FEW_SUMS: usize = 16 * 20 * 4;
/// Bytes of a stage.
pub(super) const STAGE: usize = 4096 + 256;

impl Executor {
    /// Whether products with this matrix run on matrix instructions.
    pub(super) fn is_fast(&self, weight: &DeviceWeight) -> bool {
        is_int8(self.numerics.compute) && matches!(weight.storage, Storage::Q8_0 | Storage::F16)
    }

    /// Whether the batch is one for the kernels that read every weight once.
    pub(super) fn is_small(&self) -> bool {
        self.batch.rows <= SEVERAL
    }

    /// Makes the forms of `x` that are asked for and not there. `rows`: of x.
    pub(super) fn prepare(
        &self,
        x: &Activations,
        rows: usize,
        integers: bool,
        halves: bool,
    ) -> Result<(), DeviceError> {
        let (integers, halves) = (integers && !x.integers.get(), halves && !x.halves.get());
        if !integers && !halves {
            return Ok(());
        }
        let (integers_too, halves_too) = (u32::from(integers), u32::from(halves));
        let quantize =
            params::Quantize { x: x.params, integers: integers_too, halves: halves_too, rows: rows as u32, pad: 0 };
        self.launch("quantize", [(x.params.blocks * rows as u32).div_ceil(8), 1, 1], 256, &quantize)?;
        x.set_forms(x.integers.get() || integers, x.halves.get() || halves);
        Ok(())
    }

    /// Products with the same input, `rows` rows of the batch.
    pub(super) fn products(&self, x: &Activations, rows: usize, list: &[Linear]) -> Result<(), DeviceError> {
        let (fast, plain): (Vec<Linear>, Vec<Linear>) = list.iter().partition(|l| self.is_fast(&l.weight));
        let groups = list.iter().map(|l| l.groups).max().unwrap_or(1);
        let integers = fast.iter().any(|l| l.weight.storage == Storage::Q8_0);
        let halves = fast.iter().any(|l| l.weight.storage == Storage::F16);
        let one = rows == 1 && self.one_fits(x, list);
        if !one {
            self.prepare(x, rows * groups, integers, halves)?;
        }
        let forms_of = x;
        let x = x.params;
        let whole_tiles = fast.iter().all(|l| l.group_rows.is_multiple_of(TILE_SIDE));
        if one {
            self.one_products(forms_of, &fast, One::default())?;
        } else if rows <= SEVERAL || !whole_tiles {
            self.few_products(x, rows, &fast)?;
        } else {
            self.launch_tiles(x, rows, &fast)?;
        }
        let columns = rows.div_ceil(8) as u32;
        self.launch_products("linear_float", x, rows, &plain, 1, |units| [units.div_ceil(8), columns, 1])
    }

    /// The products of small batches, with forms of `x` that are there.
    fn few_products(&self, x: params::Rows, rows: usize, list: &[Linear]) -> Result<(), DeviceError> {
        let kernels = FEW.iter().find(|kernel| rows <= kernel.1);
        let &(kernel, columns, stages, places) = kernels.unwrap_or(&FEW[FEW.len() - 1]);
        let memory = |warps: usize| warps * stages * linear_one::STAGE + places * columns * FEW_SUMS;
        // Every card has room for eight warps.
        let warps = if memory(16) <= self.device.shared_memory_limit() { 16 } else { 8 };
        for part in list.chunks(MOST_PRODUCTS) {
            let mut all: params::FewProducts = Self::empty();
            (all.products, all.units) = Self::units(part);
            for (i, linear) in part.iter().enumerate() {
                (all.y_stride[i], all.x_rows[i]) = (linear.y_stride as u32, linear.groups as u32);
            }
            (all.x, all.rows) = (x, rows as u32);
            let grid = [all.units.min(self.device.multiprocessors()), 1, 1];
            self.launch_with(kernel, grid, 32 * warps as u32, memory(warps) as u32, &all)?;
        }
        Ok(())
    }

    /// The products of large batches, with forms of `x` that are there.
    pub(super) fn launch_tiles(&self, x: params::Rows, rows: usize, list: &[Linear]) -> Result<(), DeviceError> {
        let columns = rows.div_ceil(TILE_SIDE) as u32;
        if self.needs.turned {
            // Blocks go from one unit to the next.
            let most = self.device.multiprocessors();
            return self
                .launch_products("linear_wgmma", x, rows, list, TILE_SIDE, |units| [most.min(units * columns), 1, 1]);
        }
        self.launch_products("linear_tile", x, rows, list, TILE_SIDE, |units| [columns, units, 1])
    }

    /// The first of two sizes of shared memory if a block can have it, or else the second.
    pub(super) fn shared_memory(&self, sizes: [u32; 2]) -> u32 {
        if self.device.shared_memory_limit() >= sizes[0] as usize { sizes[0] } else { sizes[1] }
    }

    /// `unit`: rows of W that a unit of the launch's numbering stands for.
    fn launch_products(
        &self,
        kernel: &'static str,
        x: params::Rows,
        rows: usize,
        list: &[Linear],
        unit: usize,
        grid: impl Fn(u32) -> [u32; 3],
    ) -> Result<(), DeviceError> {
        for part in list.chunks(MOST_PRODUCTS) {
            let mut all: params::Products = Self::empty();
            let mut end = 0;
            for (slot, linear) in all.products.iter_mut().zip(part) {
                end += linear.weight.rows().div_ceil(unit as u32);
                *slot = params::Product {
                    w: linear.weight.params,
                    y: linear.y,
                    y_stride: linear.y_stride as u32,
                    unit_end: end,
                    x_rows: linear.groups as u32,
                    group_rows: linear.group_rows as u32,
                    scale: linear.scale,
                    pad: 0,
                };
            }
            (all.x, all.count, all.rows) = (x, part.len() as u32, rows as u32);
            let (threads, shared) = match kernel {
                "linear_wgmma" => (GROUP_THREADS, GROUP_MEMORY),
                "linear_tile" => (TILE_THREADS, self.shared_memory(TILE_MEMORY)),
                _ => (256, 0),
            };
            self.launch_with(kernel, grid(end), threads, shared, &all)?;
        }
        Ok(())
    }
}
