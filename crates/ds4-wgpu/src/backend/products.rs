//! Matrix products: which kernel, and with what.

use crate::error::WgpuError;
use crate::recorder::{Recorder, View};
use crate::shader::{self, Format, GEMV_MATRICES, GEMV_ROWS, Kernel, Mode, PRODUCT_ROWS, TILE_ROWS, WIDE_PRODUCT_ROWS};
use crate::weights::{Part, Weight};

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
    pub planes: bool,
    pub grid: &'a View,
    pub nothing: &'a View,
}

/// A matrix, the part of it that is bound, and where its results go.
type Piece<'a> = (&'a Weight, &'a Part, Target<'a>);

/// What a kernel for matrices of these formats is specialized for: their format, and the unquantized one of those beside it. `None` if
/// there are too many, or if the two are bound in different pieces.
fn formats(setting: Setting<'_>, all: impl Iterator<Item = Format>) -> Option<(Format, Option<Format>)> {
    let (mut block, mut float) = (None, None);
    for format in all {
        let kind = if format.is_block() { &mut block } else { &mut float };
        if kind.is_some_and(|known| known != format) {
            return None;
        }
        *kind = Some(format);
    }
    match (block, float) {
        (Some(block), Some(float)) if shader::differ(block, float, setting.planes) => None,
        (Some(block), float) => Some((block, float)),
        (None, float) => float.map(|float| (float, None)),
    }
}

/// Several matrices with the same activation rows. The int8 form must be there if a product takes it.
pub(super) fn all(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    list: &[(&Weight, Target<'_>)],
    x: &Activations,
    rows: usize,
) -> Result<(), WgpuError> {
    if rows > GEMV_ROWS {
        return list.iter().try_for_each(|&(weight, to)| dense(recorder, setting, weight, x, rows, to));
    }
    // Neighbours that one kernel can take run together.
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(GEMV_MATRICES);
    for &(weight, to) in list {
        if weight.format.is_block() && !setting.int8 {
            dense(recorder, setting, weight, x, rows, to)?;
            continue;
        }
        for part in &weight.parts {
            let fits = pieces.first().is_none_or(|(_, of, target)| {
                pieces.len() < GEMV_MATRICES
                    && of.view == part.view
                    && target.y.buffer == to.y.buffer
                    && target.groups == 1
                    && to.groups == 1
                    && formats(setting, pieces.iter().map(|piece| piece.0.format).chain([weight.format])).is_some()
            });
            if !fits {
                gemv(recorder, setting, &pieces, x, rows, None)?;
                pieces.clear();
            }
            pieces.push((weight, part, to));
        }
    }
    gemv(recorder, setting, &pieces, x, rows, None)
}

/// One matrix with a few activation rows, the results as int8 only. False if that is not possible.
pub(super) fn to_codes(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    weight: &Weight,
    x: &Activations,
    rows: usize,
    groups: usize,
    y: &mut Activations,
) -> Result<bool, WgpuError> {
    let [part] = &weight.parts[..] else { return Ok(false) };
    let group_rows = weight.rows / groups as u32;
    if rows > GEMV_ROWS || !takes_int8(setting.int8, weight) || !group_rows.is_multiple_of(32) {
        return Ok(false);
    }
    let codes = (y.codes.clone(), y.scales.clone());
    let to = Target { groups: groups as u32, ..Target::rows(&y.float, weight) };
    gemv(recorder, setting, &[(weight, part, to)], x, rows, Some((&codes.0, &codes.1)))?;
    y.quantized = true;
    Ok(true)
}

/// Matrix rows from which a workgroup takes several at a time: there are enough workgroups then.
const MANY_ROWS: u32 = 16384;

fn gemv(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    pieces: &[Piece<'_>],
    x: &Activations,
    rows: usize,
    codes: Option<(&View, &View)>,
) -> Result<(), WgpuError> {
    let Some((format, floats)) = formats(setting, pieces.iter().map(|piece| piece.0.format)) else { return Ok(()) };
    let Some(&(weight, part, to)) = pieces.first() else { return Ok(()) };
    let integers = setting.int8 && format.is_block();
    let is_beside = |weight: &Weight| Some(weight.format) == floats;
    let part_rows = |weight: &Weight, part: &Part| if weight.parts.len() > 1 { part.count } else { weight.rows };
    let main = pieces.iter().filter(|(weight, ..)| !is_beside(weight));
    let total: u32 = main.map(|(weight, part, _)| part_rows(weight, part)).sum();
    // The results of a workgroup are one group of int8 codes.
    let may_have_many = to.groups == 1 || (weight.rows / to.groups).is_multiple_of(32);
    let each = if codes.is_some() || integers && total >= MANY_ROWS && may_have_many { 4 } else { 1 };
    let x_rows = match rows {
        1 | 2 => rows as u32,
        _ => 4,
    };
    let kernel = Kernel::Gemv { format, floats, integers, each, x_rows, quantized: codes.is_some() };
    let parts = kernel.workgroup() / 32;
    let mut p: params::Gemv = bytemuck::Zeroable::zeroed();
    p.units = x.cols as u32 / to.groups / format.unit() as u32;
    p.x_stride = x_stride(x, integers);
    p.matrices = pieces.len() as u32;
    p.count = rows as u32;
    let first_row = |weight: &Weight, part: &Part| if weight.parts.len() > 1 { part.first } else { 0 };
    (p.group_rows, p.rows_before) = match to.groups {
        1 => (u32::MAX, 0),
        groups => (weight.rows / groups, first_row(weight, part)),
    };
    let mut blocks = 0;
    for (matrix, (weight, part, to)) in p.list.iter_mut().zip(pieces) {
        let offset = if codes.is_some() { 0 } else { (to.y.offset / 4) as u32 };
        *matrix = params::GemvMatrix {
            base: part.base,
            row_bytes: weight.row_bytes,
            rows: part_rows(weight, part),
            first_block: blocks,
            y_first: offset + first_row(weight, part),
            y_stride: to.stride,
            scale: to.scale,
            floats: u32::from(is_beside(weight)),
        };
        blocks += matrix.rows.div_ceil(if is_beside(weight) { parts } else { parts * each });
    }
    let (values, scales) = if integers { (&x.codes, &x.scales) } else { (&x.float, setting.nothing) };
    let whole = View::all(to.y.buffer.clone());
    let mut views = [setting.nothing; 7];
    let first = [Some(&part.view), Some(values), Some(scales), Some(codes.map_or(&whole, |codes| codes.0))];
    let grid = (format == Format::Iq2Xxs).then_some(setting.grid);
    let rest = [grid, codes.map(|codes| codes.1), floats.map(|_| &x.float)];
    let mut count = 0;
    for view in first.into_iter().chain(rest).flatten() {
        views[count] = view;
        count += 1;
    }
    recorder.dispatch(kernel, &p, &views[..count], [p.count.div_ceil(x_rows), blocks, 1])
}

/// Vectors of 16 bytes from one activation row to the next.
fn x_stride(x: &Activations, integers: bool) -> u32 {
    (if integers { x.cols / 16 } else { x.cols / 4 }) as u32
}

/// All activation rows with one matrix, in tiles or row by row. The int8 form must be there if the product takes it.
pub(super) fn dense(
    recorder: &mut Recorder,
    setting: Setting<'_>,
    weight: &Weight,
    x: &Activations,
    rows: usize,
    to: Target<'_>,
) -> Result<(), WgpuError> {
    let tile = rows > 1;
    let kernel = kernel(setting, weight, Mode::Dense, tile, to.groups == 1);
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
        let grid = [p.rows.div_ceil(rows_of(kernel)), tasks, 1];
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
    let kernel = kernel(setting, weight, choices.mode, choices.mode == Mode::Grouped, true);
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
        let grid = [weight.rows.div_ceil(rows_of(kernel)), choices.tasks, 1];
        dispatch(recorder, setting, kernel, &p, &part.view, x, y, choices.view, grid)?;
    }
    Ok(())
}

/// Whether products with this matrix take int8 activations.
pub(super) fn takes_int8(int8: bool, weight: &Weight) -> bool {
    int8 && weight.format.is_block()
}

/// `one_group`: all matrix rows take the same activations.
fn kernel(setting: Setting<'_>, weight: &Weight, mode: Mode, tile: bool, one_group: bool) -> Kernel {
    let integers = takes_int8(setting.int8, weight);
    let rows = if tile && one_group { WIDE_PRODUCT_ROWS } else { PRODUCT_ROWS };
    Kernel::Product { format: weight.format, integers, mode, tile, rows }
}

/// Matrix rows of a workgroup.
fn rows_of(kernel: Kernel) -> u32 {
    match kernel {
        Kernel::Product { rows, .. } => rows,
        _ => PRODUCT_ROWS,
    }
}

/// Whether a kernel's tasks are tiles of several rows. Products that decode weights to float32 take rows one by one.
fn is_tiled(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Product { format, integers, tile: true, .. } if integers || !format.is_block())
}

fn common(weight: &Weight, x: &Activations, kernel: Kernel) -> params::Product {
    let integers = matches!(kernel, Kernel::Product { integers: true, .. });
    let mut p: params::Product = bytemuck::Zeroable::zeroed();
    p.row_bytes = weight.row_bytes;
    p.matrix_bytes = weight.matrix_bytes;
    p.units = x.cols as u32 / weight.format.unit() as u32;
    p.x_stride = x_stride(x, integers);
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
    if format == Format::Iq2Xxs {
        views.push(setting.grid);
    }
    views.push(choices);
    recorder.dispatch(kernel, p, &views, grid)
}
