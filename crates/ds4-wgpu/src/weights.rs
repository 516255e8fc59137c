//! The model's tensors where the card reads them.
//!
//! On a card with its own memory weights are copied, in planes (see [`planes`]); where the card works in the processor's memory, the
//! mapped file itself is bound. A tensor that is larger than the card allows for one binding lies in several parts:
//! whole rows of a matrix, whole matrices of a stack.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use ds4_model::{Model, Tensor};
use wgpu::Buffer;

use crate::error::WgpuError;
use crate::gpu::Gpu;
use crate::planes;
use crate::recorder::View;
use crate::shader::Format;

/// Some rows of a matrix, or some matrices of a stack, in one binding.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub view: View,
    /// Byte offset of the first one in the binding.
    pub base: u32,
    /// First row or matrix, and how many.
    pub first: u32,
    pub count: u32,
}

/// A matrix, or a stack of them.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub format: Format,
    pub rows: u32,
    pub cols: u32,
    pub row_bytes: u32,
    pub matrix_bytes: u32,
    pub parts: Vec<Part>,
}

/// How the file comes to the card.
pub(crate) enum Source {
    /// Copied.
    Copied,
    /// Bound where it is mapped: the buffers that wrap the mapping, by the addresses that they cover.
    #[cfg_attr(not(target_vendor = "apple"), allow(dead_code))] // Only Metal can.
    Mapped(Vec<(Range<usize>, Buffer)>),
}

/// Size of a buffer that holds several tensors.
const ARENA: u64 = 128 << 20;
/// Bytes handed over at a time, and until the queue is waited for.
const PIECE: usize = 16 << 20;
const UNWAITED: u64 = 256 << 20;

/// Brings tensors to the card.
pub(crate) struct Loader<'a> {
    gpu: &'a Arc<Gpu>,
    model: &'a Model,
    source: Source,
    planes: bool,
    arena: Option<(Buffer, u64)>,
    arena_bytes: u64,
    /// What `reserve` made for matrices.
    reserved: Option<(Buffer, u64)>,
    /// Where the bytes lie for which there is room, if tensors share them.
    has_place: HashSet<Range<usize>>,
    /// What `reserve` found in the mapped file: addresses, and the view of them.
    window: Option<(Range<usize>, View)>,
    /// Rows in planes on their way.
    in_planes: Vec<u8>,
    vectors: Vec<f32>,
    /// Tensors by the place of their bytes, where those that share bytes share memory.
    shared: Option<HashMap<Range<usize>, Weight>>,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
    unwaited: u64,
}

impl<'a> Loader<'a> {
    /// `progress` hears how many bytes of the file are there.
    /// `planes`: block formats are taken apart. `share`: tensors that are the same bytes are brought there once.
    pub fn new(
        gpu: &'a Arc<Gpu>,
        model: &'a Model,
        source: Source,
        planes: bool,
        share: bool,
        progress: &'a mut dyn FnMut(u64),
    ) -> Self {
        // Small models need no large buffer; hyper-connections become larger than in the file.
        let file: u64 = model.gguf().tensors().iter().map(|info| info.size).sum();
        let arena_bytes = (file + file / 4 + (1 << 20)).min(ARENA).min(gpu.max_binding);
        let shared = share.then(HashMap::new);
        Self {
            gpu,
            model,
            source,
            planes,
            arena: None,
            arena_bytes,
            reserved: None,
            has_place: HashSet::new(),
            window: None,
            in_planes: Vec::new(),
            vectors: Vec::new(),
            shared,
            progress,
            done: 0,
            unwaited: 0,
        }
    }

    /// Keeps a vector; its place among all vectors.
    pub fn vector(&mut self, values: &[f32]) -> u32 {
        let at = self.vectors.len();
        self.vectors.extend_from_slice(values);
        at as u32
    }

    /// All vectors, when every tensor is loaded.
    pub fn finish(mut self) -> Result<View, WgpuError> {
        let values = std::mem::take(&mut self.vectors);
        let view = View::all(self.gpu.storage("vectors", values.len() as u64 * 4)?);
        self.upload(&view.buffer, 0, bytemuck::cast_slice(&values))?;
        self.gpu.queue.submit([]);
        self.gpu.wait()?;
        Ok(view)
    }

    /// Plain values in a binding of their own.
    pub fn values(&mut self, values: &[u8]) -> Result<View, WgpuError> {
        let (view, base) = self.place(values.len() as u64, false)?;
        let offset = view.offset + u64::from(base);
        self.upload(&view.buffer, offset, values)?;
        Ok(View { buffer: view.buffer, offset, size: (values.len() as u64).max(16).next_multiple_of(16) })
    }

    /// The bytes of a table.
    pub fn table(&mut self, tensor: &Tensor) -> Result<View, WgpuError> {
        let bytes = self.model.bytes(tensor);
        self.values(bytes)
    }

    /// A matrix or a stack.
    pub fn weight(&mut self, tensor: &Tensor) -> Result<Weight, WgpuError> {
        let bytes = self.model.bytes(tensor);
        let place = self.range(tensor);
        if let Some(known) = self.shared.as_ref().and_then(|shared| shared.get(&place)) {
            return Ok(known.clone());
        }
        let Some(format) = Format::of(tensor.ty) else {
            return Err(WgpuError::Shape(format!("a matrix has type {}", tensor.ty)));
        };
        // In planes a row may be longer than in the file.
        let file_row = bytes.len() / tensor.slabs / tensor.rows;
        let planes = self.planes.then(|| planes::row_bytes(format, tensor.cols)).flatten();
        let row = planes.unwrap_or(file_row);
        let matrix = row * tensor.rows;
        if !format.is_block() && !row.is_multiple_of(16) {
            return Err(WgpuError::Shape(format!(
                "a {} matrix has {} columns; rows must be whole numbers of 16 bytes",
                tensor.ty, tensor.cols
            )));
        }
        // Parts are whole rows in multiples of what a workgroup takes, or whole matrices.
        let most = self.gpu.max_binding as usize - 256;
        let (unit, units) = if tensor.slabs > 1 { (matrix, tensor.slabs) } else { (row, tensor.rows) };
        let step = match tensor.slabs {
            1 => (most / unit) / crate::shader::PRODUCT_ROWS as usize * crate::shader::PRODUCT_ROWS as usize,
            _ => most / unit,
        };
        if step == 0 {
            return Err(WgpuError::Piece {
                adapter: self.gpu.report.name.clone(),
                what: "one matrix of the model".to_owned(),
                bytes: unit as u64,
                most: most as u64,
                remedy: "; use `--backend cpu`",
            });
        }
        let mut parts = Vec::new();
        for first in (0..units).step_by(step) {
            let count = step.min(units - first);
            let file_unit = unit / row * file_row;
            let bytes = &bytes[first * file_unit..(first + count) * file_unit];
            let (view, base) = match planes {
                None => self.part(bytes)?,
                Some(_) => self.split(format, bytes, file_row, tensor.cols)?,
            };
            parts.push(Part { view, base, first: first as u32, count: count as u32 });
        }
        let weight = Weight {
            format,
            rows: tensor.rows as u32,
            cols: tensor.cols as u32,
            row_bytes: row as u32,
            matrix_bytes: u32::try_from(matrix).unwrap_or(0),
            parts,
        };
        if let Some(shared) = &mut self.shared {
            shared.insert(place, weight.clone());
        }
        Ok(weight)
    }

    /// A binding that has these bytes of the file, and where they begin in it.
    fn part(&mut self, bytes: &[u8]) -> Result<(View, u32), WgpuError> {
        if let Source::Mapped(buffers) = &self.source {
            let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
            if let Some((range, view)) = &self.window
                && range.start <= start
                && end <= range.end
                && start.is_multiple_of(16)
            {
                let found = (view.clone(), (start - range.start) as u32);
                self.note(bytes.len());
                return Ok(found);
            }
            let covering = buffers.iter().find(|(range, _)| range.start <= start && end <= range.end);
            // Kernels read vectors of 16 bytes; files align tensors to 32, but may ask for less.
            if let Some((range, buffer)) = covering
                && start.is_multiple_of(16)
            {
                let at = (start - range.start) as u64;
                let offset = at / self.gpu.alignment * self.gpu.alignment;
                let base = at - offset;
                let size = (base + bytes.len() as u64).next_multiple_of(16).min(buffer.size() - offset);
                let view = View { buffer: buffer.clone(), offset, size };
                self.note(bytes.len());
                return Ok((view, base as u32));
            }
        }
        let (view, base) = self.place(bytes.len() as u64, true)?;
        self.upload(&view.buffer, view.offset + u64::from(base), bytes)?;
        Ok((view, base))
    }

    /// Brings rows of `row` bytes in planes to the card.
    fn split(&mut self, format: Format, rows: &[u8], row: usize, cols: usize) -> Result<(View, u32), WgpuError> {
        let out_row = planes::row_bytes(format, cols).unwrap_or(row);
        let total = rows.len() / row * out_row;
        let (view, base) = self.place(total as u64, true)?;
        let at_once = (PIECE / row).max(1);
        let mut at = view.offset + u64::from(base);
        for rows in rows.chunks(at_once * row) {
            let mut out = std::mem::take(&mut self.in_planes);
            out.resize(rows.len() / row * out_row, 0);
            planes::split_rows(format, rows, row, cols, &mut out);
            self.upload(&view.buffer, at, &out)?;
            at += out.len() as u64;
            self.in_planes = out;
        }
        Ok((view, base))
    }

    /// Whether tensors that share bytes share memory.
    pub fn shares(&self) -> bool {
        self.shared.is_some()
    }

    /// What is loaded next and used together lies in one buffer, if that is not too large for a binding.
    pub fn reserve(&mut self, tensors: &[&Tensor]) -> Result<(), WgpuError> {
        let mut new: Vec<&Tensor> = Vec::new();
        let mut places: HashSet<Range<usize>> = self.has_place.clone();
        for &tensor in tensors {
            let known = self.shared.as_ref().is_some_and(|shared| shared.contains_key(&self.range(tensor)));
            // Of those that share bytes the first is enough.
            if !known && (!self.shares() || places.insert(self.range(tensor))) {
                new.push(tensor);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        match &self.source {
            Source::Copied => {
                let size = |tensor: &&Tensor| {
                    let bytes = self.model.bytes(tensor).len();
                    let format = Format::of(tensor.ty).filter(|_| self.planes);
                    let row = format.and_then(|format| planes::row_bytes(format, tensor.cols));
                    let bytes = row.map_or(bytes, |row| row * tensor.rows * tensor.slabs) as u64;
                    bytes.max(16).next_multiple_of(self.gpu.alignment.max(256))
                };
                let total: u64 = new.iter().map(size).sum();
                if total > 0 && total <= self.gpu.max_binding {
                    self.reserved = Some((self.gpu.storage("weights", total)?, 0));
                    self.has_place = places;
                }
            }
            Source::Mapped(buffers) => {
                let ranges: Vec<_> = new.iter().map(|tensor| self.range(tensor)).collect();
                let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
                let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
                self.window = buffers.iter().find(|(range, _)| range.start <= start && end <= range.end).and_then(
                    |(range, buffer)| {
                        let offset = (start - range.start) as u64 / self.gpu.alignment * self.gpu.alignment;
                        let size =
                            ((end - range.start) as u64 - offset).next_multiple_of(16).min(buffer.size() - offset);
                        let view = View { buffer: buffer.clone(), offset, size };
                        (size <= self.gpu.max_binding).then_some((range.start + offset as usize..end, view))
                    },
                );
            }
        }
        Ok(())
    }

    /// Where a tensor lies in the host's memory.
    fn range(&self, tensor: &Tensor) -> Range<usize> {
        let bytes = self.model.bytes(tensor).as_ptr_range();
        bytes.start as usize..bytes.end as usize
    }

    /// Room for `bytes`: a view of a buffer, and where in the view.
    fn place(&mut self, bytes: u64, matrix: bool) -> Result<(View, u32), WgpuError> {
        let size = bytes.max(16).next_multiple_of(self.gpu.alignment.max(256));
        let reserved = if matrix { self.reserved.as_mut() } else { None };
        for (buffer, used) in reserved.into_iter().chain(self.arena.as_mut()) {
            if *used + size <= buffer.size() {
                let at = *used;
                *used = at + size;
                // Whole buffers are bound, so that one binding serves all that lies in them.
                return Ok((View::all(buffer.clone()), at as u32));
            }
        }
        if size >= self.arena_bytes / 2 {
            return Ok((View::all(self.gpu.storage("weights", size)?), 0));
        }
        let buffer = self.gpu.storage("weights", self.arena_bytes)?;
        self.arena = Some((buffer.clone(), size));
        Ok((View::all(buffer), 0))
    }

    fn upload(&mut self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<(), WgpuError> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let at = offset + (i * PIECE) as u64;
            let whole = piece.len() / 4 * 4;
            if whole > 0 {
                self.gpu.queue.write_buffer(buffer, at, &piece[..whole]);
            }
            if whole < piece.len() {
                let mut last = [0; 4];
                last[..piece.len() - whole].copy_from_slice(&piece[whole..]);
                self.gpu.queue.write_buffer(buffer, at + whole as u64, &last);
            }
            self.note(piece.len());
            self.unwaited += piece.len() as u64;
            if self.unwaited >= UNWAITED {
                // Staging memory is freed when the copies are done.
                self.gpu.queue.submit([]);
                self.gpu.wait()?;
                self.unwaited = 0;
            }
        }
        self.gpu.check()
    }

    fn note(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(self.done);
    }
}
