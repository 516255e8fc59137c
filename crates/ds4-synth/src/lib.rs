//! Models of a published shape with random weights.
//!
//! Speed and memory depend on shapes and types, not on what the weights say, so a file or an image in memory with
//! random blocks answers "will it run well here?" before an 81 GB download. Block scales are chosen so that
//! activations stay of ordinary size; what such a model writes is noise.
//!
//! With [`SynthOptions::alias`] the matrices of all layers share the bytes of one layer of each kind: the full
//! shape in a few GB, still far more than any cache, so that every token reads from memory as much as it would.

mod fill;
mod metadata;
mod profile;
mod shape;

use std::collections::HashMap;
use std::io::Write;

use ds4_gguf::{Gguf, GgufWriter, Layout};

pub use metadata::TokenizerArrays;
pub use profile::ProfileOptions;
pub use shape::{Recipe, Shape, TensorSpec};

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct SynthOptions {
    /// Dimensions and types.
    pub shape: Shape,
    /// Fewer layers than the shape has; `None` for all.
    pub layers: Option<usize>,
    /// Let layers share the bytes of their matrices.
    pub alias: bool,
    /// Seed of the random weights.
    pub seed: u64,
}

/// Why a synthetic model could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// Writing failed.
    #[error(transparent)]
    Gguf(#[from] ds4_gguf::Error),
    /// A layer count that the shape does not have.
    #[error("{asked} layers are not possible: this shape has 1 to {most}")]
    Layers {
        /// What was asked for.
        asked: usize,
        /// Layers of the shape.
        most: usize,
    },
    /// The memory for the model could not be had.
    #[error(
        "a model of {bytes} bytes does not fit into memory; use --alias to share the layers' weights, or fewer --layers"
    )]
    Memory {
        /// Size of the model.
        bytes: u64,
    },
}

/// Writes a synthetic model. `file` names the output in messages.
///
/// # Errors
/// An impossible layer count; writing fails.
pub fn write<W: Write>(
    file: &str,
    out: W,
    options: &SynthOptions,
    tokenizer: Option<&TokenizerArrays>,
) -> Result<W, SynthError> {
    let layers = layer_count(options)?;
    let metadata = metadata::metadata(&options.shape, layers, tokenizer);
    let (layout, written) = lay_out(options, layers)?;
    let mut writer = GgufWriter::new(file, out, &metadata, layout)?;
    let mut fill = fill::Filler::new(options.shape.n_expert);
    for spec in &written {
        fill.fill(spec, options.seed, |part| writer.write_part(&spec.name, part))?;
    }
    Ok(writer.finish()?)
}

/// The bytes of the file before its data, and the length of the data: to make a file of the right size without
/// writing its weights.
///
/// # Errors
/// An impossible layer count.
pub fn header(options: &SynthOptions, tokenizer: Option<&TokenizerArrays>) -> Result<(Vec<u8>, u64), SynthError> {
    let layers = layer_count(options)?;
    let metadata = metadata::metadata(&options.shape, layers, tokenizer);
    let (layout, _) = lay_out(options, layers)?;
    let (mut header, data_bytes) = (Vec::new(), layout.data_len());
    GgufWriter::new(options.shape.name, &mut header, &metadata, layout)?;
    Ok((header, data_bytes))
}

/// Builds a synthetic model in memory.
///
/// # Errors
/// An impossible layer count; not enough memory.
pub fn in_memory(options: &SynthOptions, tokenizer: Option<&TokenizerArrays>) -> Result<Gguf, SynthError> {
    let bytes = data_bytes(options)?;
    let mut image = Vec::new();
    // Room for the header as well: growing a vector of this size would need twice the memory for a moment.
    const HEADER: u64 = 16 << 20;
    let size = usize::try_from(bytes + HEADER).map_err(|_| SynthError::Memory { bytes })?;
    ds4_gguf::reserve_huge(&mut image, size).map_err(|_| SynthError::Memory { bytes })?;
    let name = format!("synthetic {}", options.shape.name);
    let image = write(&name, image, options, tokenizer)?;
    Ok(Gguf::from_vec(&name, image)?)
}

/// Bytes of tensor data that the model holds, shared bytes counted once.
///
/// # Errors
/// An impossible layer count.
pub fn data_bytes(options: &SynthOptions) -> Result<u64, SynthError> {
    Ok(lay_out(options, layer_count(options)?)?.0.data_len())
}

fn layer_count(options: &SynthOptions) -> Result<usize, SynthError> {
    let most = options.shape.n_layer;
    match options.layers {
        None => Ok(most),
        Some(layers) if (1..=most).contains(&layers) => Ok(layers),
        Some(asked) => Err(SynthError::Layers { asked, most }),
    }
}

/// Tensors smaller than this keep bytes of their own also when layers share.
const SHARED_FROM: u64 = 1 << 16;

/// The layout, and the tensors whose data has to be written, in order.
fn lay_out(options: &SynthOptions, layers: usize) -> Result<(Layout, Vec<TensorSpec>), SynthError> {
    let metadata = metadata::metadata(&options.shape, layers, None);
    let mut layout = Layout::new(&metadata)?;
    let mut shared: HashMap<(String, Vec<u64>), u64> = HashMap::new();
    let mut written = Vec::new();
    for spec in options.shape.tensors(layers) {
        let role = spec.name.splitn(3, '.').nth(2).unwrap_or(&spec.name).to_owned();
        let shares = options.alias && spec.name.starts_with("blk.") && spec.bytes() >= SHARED_FROM;
        let key = (role, spec.dims.clone());
        if let Some(&offset) = shared.get(&key).filter(|_| shares) {
            layout.push_at(&spec.name, spec.ty, &spec.dims, offset)?;
            continue;
        }
        let offset = layout.push(&spec.name, spec.ty, &spec.dims)?;
        if shares {
            shared.insert(key, offset);
        }
        written.push(spec);
    }
    Ok((layout, written))
}
