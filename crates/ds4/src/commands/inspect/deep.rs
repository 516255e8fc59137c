//! Reading every block.

use std::collections::HashSet;

use ds4_gguf::{Access, Gguf, TensorInfo, TensorType, quant};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::terminal::{Progress, Unit};

/// Bytes between two looks at the clock and at Ctrl-C.
const STRIDE: usize = 4 << 20;

/// What was found.
#[derive(Debug, Serialize)]
pub struct DeepResult {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks (in the plain types, elements) looked at.
    pub blocks: u64,
    /// Tensors with a block that no encoder writes.
    pub bad_tensors: Vec<BadTensor>,
}

/// The first bad block of a tensor.
#[derive(Debug, Serialize)]
pub struct BadTensor {
    /// The tensor.
    pub tensor: String,
    /// Number of the block, from 0; in the plain types, of the element.
    pub block: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// What is wrong, as a sentence.
    pub problem: String,
}

/// Looks at every block of every tensor; bytes that several tensors share are read once. `None` after Ctrl-C.
///
/// # Errors
/// The file has become shorter.
pub fn check(gguf: &Gguf, interrupt: &Interrupt) -> anyhow::Result<Option<DeepResult>> {
    gguf.verify_len()?;
    let mut seen = HashSet::new();
    let tensors: Vec<&TensorInfo> =
        gguf.tensors().iter().filter(|info| seen.insert((info.offset, info.size, info.ty))).collect();
    let total = tensors.iter().fold(0u64, |sum, info| sum.saturating_add(info.size));
    let progress = Progress::new("checking", total, Unit::Bytes);
    let mut result = DeepResult { bytes: 0, blocks: 0, bad_tensors: Vec::new() };
    for info in tensors {
        gguf.advise(info, Access::Sequential);
        let data = gguf.data(info);
        let mut bad = None;
        let stride = STRIDE / info.ty.block_bytes() * info.ty.block_bytes();
        for (index, piece) in data.chunks(stride).enumerate() {
            if interrupt.is_pressed() {
                return Ok(None);
            }
            let first = (index * stride / info.ty.block_bytes()) as u64;
            bad = bad.or_else(|| bad_block(info, first, piece));
            result.bytes += piece.len() as u64;
            progress.set(result.bytes);
        }
        result.blocks += (data.len() / info.ty.block_bytes()) as u64;
        result.bad_tensors.extend(bad);
    }
    Ok(Some(result))
}

/// The first bad block of `piece`, which begins at block `first` of the tensor.
fn bad_block(info: &TensorInfo, first: u64, piece: &[u8]) -> Option<BadTensor> {
    let bad = quant::validate(info.ty, piece).err()?;
    let block = first + bad.index as u64;
    let offset = info.offset + block * info.ty.block_bytes() as u64;
    let what = noun(info.ty);
    let problem = format!("tensor {}: {what} {block} (byte {offset}) of type {} {}", info.name, info.ty, bad.defect);
    Some(BadTensor { tensor: info.name.clone(), block, offset, problem })
}

fn noun(ty: TensorType) -> &'static str {
    if ty.is_block_format() { "block" } else { "element" }
}
