//! Matrix products: which kernel, and with what.

use crate::error::WgpuError;
use crate::recorder::{Recorder, View};
use crate::shader::{Kernel, Mode, PRODUCT_ROWS, TILE_ROWS};
use crate::weights::Weight;

use super::params;
use super::workspace::Activations;

/// The int8 form of activations, if it is not there yet.
pub(super) fn quantize(recorder: &mut Recorder, x: &mut Activations, rows: usize) -> Result<(), WgpuError> {
    if x.quantized {
        return Ok(());
    }
    let groups = (rows * x.cols / 32) as u32;
    let grid = [groups.div_ceil(Kernel::Quantize.workgroup()), 1, 1];
    recorder.dispatch(Kernel::Quantize, &params::Quantize { groups }, &[&x.float, &x.codes, &x.scales], grid)?;
    x.quantized = true;
    Ok(())
}

/// Where results go.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub y: &'a View,
    /// Values from one row to the next.
    pub stride: u32,
    /// Factor on the results.
    pub scale: f32,
    /// Activation row i of these is row `i * mul.0 + add.0` of the activations and `i * mul.1 + add.1` of the results.
    pub mul: (u32, u32),
    pub add: (u32, u32),
    /// Groups of matrix rows that take consecutive parts of the activations.
    pub groups: u32,
}

impl<'a> Target<'a> {
    /// Rows of `weight.rows` values, one for each activation row.
    pub fn rows(y: &'a View, weight: &Weight) -> Self {
        Self { y, stride: weight.rows, scale: 1.0, mul: (1, 1), add: (0, 0), groups: 1 }
    }
}

/// What the experts' products share.
pub(super) struct Choices<'a> {
    /// Ids of the chosen experts, or tiles of slots.
    pub view: &'a View,
    pub mode: Mode,
    /// Tasks of the grid.
    pub tasks: u32,
    /// Slots of a row.
    pub slots: u32,
    /// First row of the batch whose slots these are.
    pub first_row: u32,
    /// Whether activations have a row for each slot.
    pub by_slot: bool,
}

/// What every product needs beside its operands.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub int8: bool,
    pub grid: &'a View,
    pub nothing: &'a View,
}

/// All activation rows with one matrix. The int8 form must be there if the product takes it.
pub(super) fn dense(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    weight: &Weight,
    x: &Activations,
    rows: usize,
    to: Target<'_>,
) -> Result<(), WgpuError> {
    let tile = rows > 1;
    let kernel = kernel(setting, weight, Mode::Dense, tile);
    let tasks = if is_tiled(kernel) { (rows as u32).div_ceil(TILE_ROWS) } else { rows as u32 };
    for part in &weight.parts {
        let mut p = common(weight, x, kernel);
        p.base = part.base;
        p.rows = if weight.parts.len() > 1 { part.count } else { weight.rows };
        p.units /= to.groups;
        p.count = rows as u32;
        (p.x_mul, p.x_add, p.y_mul, p.y_add) = (to.mul.0, to.add.0, to.mul.1, to.add.1);
        p.y_stride = to.stride;
        p.y_column = if weight.parts.len() > 1 { part.first } else { 0 };
        p.group_rows = weight.rows / to.groups;
        p.rows_before = p.y_column;
        p.scale = to.scale;
        let grid = [p.rows.div_ceil(PRODUCT_ROWS), tasks, 1];
        dispatch(recorder, setting, kernel, &p, &part.view, x, to.y, setting.nothing, grid)?;
    }
    Ok(())
}

/// Each slot with its expert's matrix.
pub(super) fn experts(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    weight: &Weight,
    x: &Activations,
    choices: &Choices<'_>,
    y: &View,
) -> Result<(), WgpuError> {
    let kernel = kernel(setting, weight, choices.mode, choices.mode == Mode::Grouped);
    for part in &weight.parts {
        let mut p = common(weight, x, kernel);
        p.base = part.base;
        p.rows = weight.rows;
        p.x_mul = u32::from(choices.by_slot);
        p.y_stride = weight.rows;
        p.group_rows = weight.rows;
        p.scale = 1.0;
        (p.first_expert, p.experts) = (part.first, part.count);
        (p.slots, p.first_row) = (choices.slots, choices.first_row);
        let grid = [weight.rows.div_ceil(PRODUCT_ROWS), choices.tasks, 1];
        dispatch(recorder, setting, kernel, &p, &part.view, x, y, choices.view, grid)?;
    }
    Ok(())
}

/// Whether products with this matrix take int8 activations.
pub(super) fn takes_int8(int8: bool, weight: &Weight) -> bool {
    int8 && weight.format.is_block()
}

fn kernel(setting: Setting<'_>, weight: &Weight, mode: Mode, tile: bool) -> Kernel {
    let integers = takes_int8(setting.int8, weight);
    Kernel::Product { format: weight.format, integers, mode, tile }
}

/// Whether a kernel's tasks are tiles of several rows. Products that decode weights to float32 take rows one by one.
fn is_tiled(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Product { format, integers, tile: true, .. } if integers || !format.is_block())
}

fn common(weight: &Weight, x: &Activations, kernel: Kernel) -> params::Product {
    let integers = matches!(kernel, Kernel::Product { integers: true, .. });
    // In vectors of 16 bytes.
    let x_stride = if integers { x.cols / 16 } else { x.cols / 4 };
    let mut p: params::Product = bytemuck::Zeroable::zeroed();
    p.row_bytes = weight.row_bytes;
    p.matrix_bytes = weight.matrix_bytes;
    p.units = x.cols as u32 / weight.format.unit() as u32;
    p.x_stride = x_stride as u32;
    p
}

#[expect(clippy::too_many_arguments, reason = "the kernel's bindings")]
fn dispatch(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    kernel: Kernel,
    p: &params::Product,
    weight: &View,
    x: &Activations,
    y: &View,
    choices: &View,
    grid: [u32; 3],
) -> Result<(), WgpuError> {
    let Kernel::Product { format, integers, .. } = kernel else { return Ok(()) };
    let (values, scales) = if integers { (&x.codes, &x.scales) } else { (&x.float, setting.nothing) };
    let mut views = vec![weight, values, scales, y];
    if format == crate::shader::Format::Iq2Xxs {
        views.push(setting.grid);
    }
    views.push(choices);
    recorder.dispatch(kernel, p, &views, grid)
}
