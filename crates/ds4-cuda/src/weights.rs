//! Matrices in device memory: from the file's layout into tiles that a warp reads in whole lines.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Zeroable;
use ds4_gguf::TensorType;
use ds4_model::{Model, Tensor};

use crate::device::{Device, DeviceError, Launch, Memory};
use crate::params;

/// Rows of a tile.
const TILE: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 256;

/// The storage types, as the kernels number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Storage {
    F32 = 0,
    F16 = 1,
    Bf16 = 2,
    Q8_0 = 3,
    Q2K = 4,
    Q4K = 5,
    Iq2Xxs = 6,
    Mxfp4 = 7,
}

impl Storage {
    pub fn of(ty: TensorType) -> Self {
        match ty {
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::Bf16,
            TensorType::Q8_0 => Self::Q8_0,
            TensorType::Q2_K => Self::Q2K,
            TensorType::Q4_K => Self::Q4K,
            TensorType::IQ2_XXS => Self::Iq2Xxs,
            TensorType::MXFP4 => Self::Mxfp4,
            TensorType::F32 | TensorType::I32 => Self::F32,
        }
    }

    /// Bytes of codes, scales and extra values of one tile and block; nothing for types that stay row-major.
    pub(crate) fn tile_bytes(self) -> Option<[usize; 3]> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::F16 => Some([8192, 0, 0]),
            Self::Q8_0 => Some([4096, 256, 0]),
            Self::Q2K => Some([1024, 256, 64]),
            Self::Q4K => Some([2048, 256, 0]),
            Self::Iq2Xxs => Some([1024, 64, 32]),
            Self::Mxfp4 => Some([2048, 128, 0]),
        }
    }

    /// Whether products with int8 activations are made for it.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Ending of the kernels' names for experts of this type.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A matrix, or a stack of them, on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceWeight {
    pub params: params::Weight,
    pub storage: Storage,
}

impl DeviceWeight {
    /// Rows of one matrix.
    pub fn rows(&self) -> u32 {
        self.params.rows
    }
}

/// Bytes that a tensor takes on the device: codes, scales, extra values of one matrix.
fn matrix_bytes(storage: Storage, rows: usize, cols: usize) -> [usize; 3] {
    match storage.tile_bytes() {
        Some(bytes) => bytes.map(|b| b * rows.div_ceil(TILE) * cols.div_ceil(BLOCK)),
        None => [rows * cols * if storage == Storage::F32 { 4 } else { 2 }, 0, 0],
    }
}

/// Bytes copied before the layout is changed on the device.
const STAGING: usize = 64 << 20;

/// Brings tensors to the device.
pub(crate) struct Loader<'a> {
    device: &'a Arc<dyn Device>,
    model: &'a Model,
    staging: Memory,
    memory: Vec<Memory>,
    /// Tensors by the address of their bytes, where tensors that share bytes share memory.
    shared: Option<HashMap<(usize, usize), DeviceWeight>>,
    progress: &'a mut dyn FnMut(u64),
    done: u64,
}

impl<'a> Loader<'a> {
    /// `share`: tensors that are the same bytes of the file take memory once. `progress` hears how many bytes of the file
    /// have been read.
    pub fn new(
        device: &'a Arc<dyn Device>,
        model: &'a Model,
        share: bool,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<Self, DeviceError> {
        let largest = model.gguf().tensors().iter().map(|info| info.size).max().unwrap_or(0);
        let staging = Memory::new(device, STAGING.min(largest as usize))?;
        let shared = share.then(HashMap::new);
        Ok(Self { device, model, staging, memory: Vec::new(), shared, progress, done: 0 })
    }

    /// Everything allocated.
    pub fn finish(self) -> Result<Vec<Memory>, DeviceError> {
        self.device.synchronize()?;
        Ok(self.memory)
    }

    fn note(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(self.done);
    }

    /// Plain values.
    pub fn values<T: bytemuck::Pod>(&mut self, values: &[T]) -> Result<u64, DeviceError> {
        let memory = Memory::of(self.device, values)?;
        let address = memory.address();
        self.memory.push(memory);
        Ok(address)
    }

    /// A tensor as the file has it.
    pub fn raw(&mut self, tensor: &Tensor) -> Result<u64, DeviceError> {
        let address = self.values(self.model.bytes(tensor))?;
        self.note(self.model.bytes(tensor).len());
        Ok(address)
    }

    /// A matrix or a stack, in tiles.
    pub fn weight(&mut self, tensor: &Tensor) -> Result<DeviceWeight, DeviceError> {
        let bytes = self.model.bytes(tensor);
        let key = (bytes.as_ptr() as usize, bytes.len());
        if let Some(known) = self.shared.as_ref().and_then(|shared| shared.get(&key)) {
            return Ok(*known);
        }
        let storage = Storage::of(tensor.ty);
        let slab = matrix_bytes(storage, tensor.rows, tensor.cols);
        let parts = slab.map(|b| b * tensor.slabs);
        // Every part starts on a boundary that the widest loads need.
        let offsets =
            [0, parts[0].next_multiple_of(256), (parts[0].next_multiple_of(256) + parts[1]).next_multiple_of(256)];
        let memory = Memory::new(self.device, offsets[2] + parts[2])?;
        let at = |i: usize| if parts[i] == 0 { 0 } else { memory.address() + offsets[i] as u64 };
        let params = params::Weight {
            codes: at(0),
            scales: at(1),
            extra: at(2),
            slab_codes: slab[0] as u64,
            slab_scales: slab[1] as u64,
            slab_extra: slab[2] as u64,
            ty: storage as u32,
            rows: tensor.rows as u32,
            cols: tensor.cols as u32,
            blocks: tensor.cols.div_ceil(BLOCK) as u32,
        };
        let weight = DeviceWeight { params, storage };
        self.memory.push(memory);
        match storage.tile_bytes() {
            None => {
                self.device.write(params.codes, bytes)?;
                self.note(bytes.len());
            }
            Some(_) => self.repack(&weight, bytes, tensor)?,
        }
        if let Some(shared) = &mut self.shared {
            shared.insert(key, weight);
        }
        Ok(weight)
    }

    fn repack(&mut self, weight: &DeviceWeight, bytes: &[u8], tensor: &Tensor) -> Result<(), DeviceError> {
        let matrix = bytes.len() / tensor.slabs;
        let row_bytes = matrix / tensor.rows;
        if matrix <= self.staging.bytes() {
            // Several matrices at a time.
            let at_once = (self.staging.bytes() / matrix).max(1);
            for (i, part) in bytes.chunks(at_once * matrix).enumerate() {
                self.repack_part(weight, part, row_bytes, (i * at_once) as u32, (part.len() / matrix) as u32)?;
            }
            return Ok(());
        }
        // One matrix in several parts, each of whole tiles.
        let tile_bytes = row_bytes * TILE;
        let tiles_at_once = self.staging.bytes() / tile_bytes;
        if tiles_at_once == 0 {
            return Err(DeviceError::new(format!("a matrix with rows of {row_bytes} bytes cannot be loaded")));
        }
        for slab in 0..tensor.slabs {
            let matrix = &bytes[slab * matrix..(slab + 1) * matrix];
            for (i, part) in matrix.chunks(tiles_at_once * tile_bytes).enumerate() {
                // A part is a matrix of its own whose tiles lie behind those before.
                let first_tile = (i * tiles_at_once) as u64;
                let mut some = *weight;
                some.params.rows = (part.len() / row_bytes) as u32;
                let [codes, scales, extra] = weight.storage.tile_bytes().unwrap_or_default();
                let tiles = first_tile * u64::from(weight.params.blocks);
                some.params.codes += tiles * codes as u64;
                some.params.scales += tiles * scales as u64;
                some.params.extra += tiles * extra as u64;
                self.repack_part(&some, part, row_bytes, slab as u32, 1)?;
            }
        }
        Ok(())
    }

    fn repack_part(
        &mut self,
        weight: &DeviceWeight,
        part: &[u8],
        row_bytes: usize,
        slab: u32,
        matrices: u32,
    ) -> Result<(), DeviceError> {
        self.device.write(self.staging.address(), part)?;
        let mut repack = params::Repack::zeroed();
        repack.from = self.staging.address();
        repack.to = weight.params;
        repack.row_bytes = row_bytes as u64;
        repack.slab = slab;
        let launch = Launch {
            kernel: "repack",
            grid: [weight.params.blocks, weight.params.rows.div_ceil(TILE as u32), matrices],
            threads: 128,
            shared: 0,
        };
        // SAFETY: the struct is `repack`'s; staging holds the part, and the weight's memory was sized for all its tiles.
        unsafe { self.device.launch(&launch, bytemuck::bytes_of(&repack))? };
        self.note(part.len());
        Ok(())
    }
}
