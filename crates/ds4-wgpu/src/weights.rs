//! The model's tensors where the card reads them.
//!
//! Weights keep the file's layout. On a card with its own memory they are copied there; where the card works in the processor's
//! memory, the mapped file itself is bound. A tensor that is larger than the card allows for one binding lies in several parts:
//! whole rows of a matrix, whole matrices of a stack.

use std::ops::Range;
use std::sync::Arc;

use ds4_model::{Model, Tensor};
use wgpu::Buffer;

use crate::error::WgpuError;
use crate::gpu::Gpu;
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
    arena: Option<(Buffer, u64)>,
    arena_bytes: u64,
    vectors: Vec<f32>,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
    unwaited: u64,
}

impl<'a> Loader<'a> {
    /// `progress` hears how many bytes of the file are there.
    pub fn new(gpu: &'a Arc<Gpu>, model: &'a Model, source: Source, progress: &'a mut dyn FnMut(u64)) -> Self {
        // Small models need no large buffer; hyper-connections become larger than in the file.
        let file: u64 = model.gguf().tensors().iter().map(|info| info.size).sum();
        let arena_bytes = (file + file / 4 + (1 << 20)).min(ARENA).min(gpu.max_binding);
        Self { gpu, model, source, arena: None, arena_bytes, vectors: Vec::new(), progress, done: 0, unwaited: 0 }
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
        let (buffer, offset) = self.place(values.len() as u64)?;
        self.upload(&buffer, offset, values)?;
        Ok(View { buffer, offset, size: (values.len() as u64).max(16).next_multiple_of(16) })
    }

    /// The bytes of a table.
    pub fn table(&mut self, tensor: &Tensor) -> Result<View, WgpuError> {
        let bytes = self.model.bytes(tensor);
        self.values(bytes)
    }

    /// A matrix or a stack.
    pub fn weight(&mut self, tensor: &Tensor) -> Result<Weight, WgpuError> {
        let bytes = self.model.bytes(tensor);
        let Some(format) = Format::of(tensor.ty) else {
            return Err(WgpuError::Shape(format!("a matrix has type {}", tensor.ty)));
        };
        let matrix = bytes.len() / tensor.slabs;
        let row = matrix / tensor.rows;
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
            let (view, base) = self.part(&bytes[first * unit..(first + count) * unit])?;
            parts.push(Part { view, base, first: first as u32, count: count as u32 });
        }
        Ok(Weight {
            format,
            rows: tensor.rows as u32,
            cols: tensor.cols as u32,
            row_bytes: row as u32,
            matrix_bytes: u32::try_from(matrix).unwrap_or(0),
            parts,
        })
    }

    /// A binding that has these bytes of the file, and where they begin in it.
    fn part(&mut self, bytes: &[u8]) -> Result<(View, u32), WgpuError> {
        if let Source::Mapped(buffers) = &self.source {
            let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
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
        Ok((self.values(bytes)?, 0))
    }

    /// Room for `bytes` in a buffer.
    fn place(&mut self, bytes: u64) -> Result<(Buffer, u64), WgpuError> {
        let size = bytes.max(16).next_multiple_of(256);
        if let Some((buffer, used)) = &mut self.arena
            && *used + size <= buffer.size()
        {
            let at = *used;
            *used = (at + size).next_multiple_of(self.gpu.alignment);
            return Ok((buffer.clone(), at));
        }
        if size >= self.arena_bytes / 2 {
            return Ok((self.gpu.storage("weights", size)?, 0));
        }
        let buffer = self.gpu.storage("weights", self.arena_bytes)?;
        self.arena = Some((buffer.clone(), size.next_multiple_of(self.gpu.alignment)));
        Ok((buffer, 0))
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
