//! Which model fits this machine, with how much context, and how fast it can be.

use std::fs::File;
use std::io::Write;

use ds4_gguf::Gguf;
use ds4_model::{KvPrecision, Model, ReadCost, StateLayout};
use ds4_synth::{Shape, SynthOptions};
use serde::Serialize;

use crate::catalog::{Experts, PUBLISHED, Published};
use crate::machine::Memory;

/// Memory beside weights and conversations: activations of a prefill step, the program, the vocabulary.
const RESERVE: u64 = 1 << 30;
/// Tokens of context at which speeds are stated.
const CONTEXT: usize = 4096;
/// What a usable context is, in tokens; a model that leaves less is not one to recommend.
pub const USABLE: usize = 32 << 10;

/// A model on this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// Name of the published file, or of the file that was asked about.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Whether the weights stay in memory. If not, a part of them is read from disk for every token.
    pub in_memory: bool,
    /// The longest context that fits beside the weights (beside nothing if they do not stay), in tokens.
    pub context: usize,
    /// Bytes of a conversation of that length.
    pub state_bytes: u64,
    /// Bytes that one token reads, after `context_of_speed` others.
    pub read_bytes: u64,
    /// Tokens of context that `read_bytes` and `roofline` are stated for.
    pub context_of_speed: usize,
    /// Tokens per second that the memory's bandwidth allows, for weights in memory.
    pub roofline: Option<f64>,
}

/// What is needed to know of a model.
#[derive(Clone)]
struct Needs {
    name: String,
    bytes: u64,
    read_bytes: u64,
    layout: StateLayout,
    longest: usize,
}

impl Fit {
    fn new(needs: Needs, memory: Memory, bandwidth: Option<f64>) -> Fit {
        let beside_weights = memory.available.saturating_sub(needs.bytes.saturating_add(RESERVE));
        // One page: less than that holds no conversation.
        let in_memory = beside_weights > needs.layout.sequence_bytes(1) as u64;
        let room = if in_memory { beside_weights } else { memory.available.saturating_sub(RESERVE) };
        let context = longest_within(&needs.layout, needs.longest, room);
        Fit {
            name: needs.name,
            bytes: needs.bytes,
            in_memory,
            context,
            state_bytes: needs.layout.sequence_bytes(context) as u64,
            read_bytes: needs.read_bytes,
            context_of_speed: CONTEXT.min(needs.longest),
            roofline: bandwidth.filter(|_| in_memory).map(|bandwidth| bandwidth / needs.read_bytes as f64),
        }
    }
}

/// The largest context, up to `longest` tokens, whose state takes no more than `room` bytes.
fn longest_within(layout: &StateLayout, longest: usize, room: u64) -> usize {
    let fits = |tokens: usize| layout.sequence_bytes(tokens) as u64 <= room;
    if fits(longest) {
        return longest;
    }
    let (mut most, mut too_many) = (0, longest);
    while too_many - most > 1 {
        let middle = most + (too_many - most) / 2;
        if fits(middle) { most = middle } else { too_many = middle }
    }
    most
}

/// A model file on this machine; without a bandwidth, nothing is said of its speed.
pub fn of_model(name: String, model: &Model, kv: KvPrecision, memory: Memory, bandwidth: Option<f64>) -> Fit {
    let layout = StateLayout::new(model.config(), kv);
    let longest = model.config().context_length;
    let read_bytes = ReadCost::of(model, &layout, CONTEXT.min(longest)).total();
    Fit::new(Needs { name, bytes: model.gguf().file_len(), read_bytes, layout, longest }, memory, bandwidth)
}

/// The published models on this machine, smallest first.
///
/// # Errors
/// No temporary file can be made.
pub fn of_published(kv: KvPrecision, memory: Memory, bandwidth: f64) -> anyhow::Result<Vec<Fit>> {
    Ok(needs_of_published(kv)?.into_iter().map(|needs| Fit::new(needs, memory, Some(bandwidth))).collect())
}

fn needs_of_published(kv: KvPrecision) -> anyhow::Result<Vec<Needs>> {
    // Each shape is outlined once; files share them.
    let mut shapes: Vec<(&str, Needs)> = Vec::new();
    let mut needs = |shape: &'static str| -> anyhow::Result<Needs> {
        if let Some((_, known)) = shapes.iter().find(|(name, _)| *name == shape) {
            return Ok(known.clone());
        }
        let model = outline(shape)?;
        let layout = StateLayout::new(model.config(), kv);
        let read_bytes = ReadCost::of(&model, &layout, CONTEXT).total();
        let longest = model.config().context_length;
        let found = Needs { name: String::new(), bytes: 0, read_bytes, layout, longest };
        shapes.push((shape, found.clone()));
        Ok(found)
    };
    let of_file = |file: &Published| -> anyhow::Result<Needs> {
        let needs = match file.experts {
            Experts::Uniform(shape) => needs(shape)?,
            Experts::Mixed { most, last, layers } => {
                let (most, last) = (needs(most)?, needs(last)?);
                // The recipes differ in the experts only, and those are alike in all layers.
                let a_layer = (last.read_bytes - most.read_bytes) / Shape::V4_FLASH.n_layer as u64;
                Needs { read_bytes: most.read_bytes + a_layer * layers as u64, ..most }
            }
        };
        Ok(Needs { name: file.name.to_owned(), bytes: file.bytes, ..needs })
    };
    PUBLISHED.iter().map(of_file).collect()
}

/// Outlines of the published models whose layers are all of one recipe, by name, the smallest file first.
///
/// # Errors
/// No temporary file can be made.
pub fn uniform_models() -> anyhow::Result<Vec<(&'static str, Model)>> {
    let uniform = PUBLISHED.iter().filter_map(|file| match file.experts {
        Experts::Uniform(shape) => Some((file.name, shape)),
        Experts::Mixed { .. } => None,
    });
    uniform.map(|(name, shape)| Ok((name, outline(shape)?))).collect()
}

/// A model of a published shape whose weights are a hole in a temporary file: what it needs can be counted, and no disk
/// is filled nor memory used for that.
fn outline(shape: &str) -> anyhow::Result<Model> {
    let shape = Shape::by_name(shape).ok_or_else(|| anyhow::anyhow!("there is no shape {shape}"))?;
    let options = SynthOptions { shape, layers: None, alias: false, seed: 0 };
    let (header, data_bytes) = ds4_synth::header(&options, None)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("outline.gguf");
    let mut file = File::create(&path)?;
    file.write_all(&header)?;
    file.set_len(header.len() as u64 + data_bytes)?;
    drop(file);
    // The mapping outlives the file's name.
    Ok(Model::new(Gguf::open(&path)?)?)
}

/// The one to download: the largest that stays in memory and leaves a usable context, else the smallest.
pub fn recommended(fits: &[Fit]) -> Option<&Fit> {
    let usable = fits.iter().filter(|fit| fit.in_memory && fit.context >= USABLE);
    usable.max_by_key(|fit| fit.bytes).or(fits.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn fits(needs: &[Needs], available: u64) -> Vec<Fit> {
        let memory = Memory { total: available, available, limit: None };
        needs.iter().map(|needs| Fit::new(needs.clone(), memory, Some(100e9))).collect()
    }

    fn needs() -> Vec<Needs> {
        needs_of_published(KvPrecision::Model).expect("temporary files")
    }

    #[test]
    fn memory_decides_what_is_recommended() {
        let needs = needs();
        let name = |available: u64| recommended(&fits(&needs, available)).expect("a model").name.clone();
        assert_eq!(name(16 * GIB), "q2");
        assert_eq!(name(90 * GIB), "q2");
        assert_eq!(name(100 * GIB), "q2-q4");
        assert_eq!(name(150 * GIB), "mxfp4");
        assert_eq!(name(256 * GIB), "q4");
    }

    #[test]
    fn figures_follow_from_the_published_ones() {
        let fits = fits(&needs(), 512 * GIB);
        let q2 = &fits[0];
        // 9.56 GB of weights per token; 4 Ki tokens of context add a few MB.
        assert!((q2.read_bytes as f64 / 9.56e9 - 1.0).abs() < 0.01, "{q2:?}");
        assert!((q2.roofline.expect("in memory") - 100e9 / q2.read_bytes as f64).abs() < 1e-9);
        assert_eq!(q2.context, 1 << 20);
        assert!(fits[0].read_bytes < fits[1].read_bytes && fits[1].read_bytes < fits[3].read_bytes);
    }

    #[test]
    fn the_context_is_the_longest_that_fits() {
        let needs = needs();
        let fit = &fits(&needs, PUBLISHED[0].bytes + RESERVE + GIB)[0];
        let layout = &needs[0].layout;
        assert!(fit.in_memory && fit.context < 1 << 20);
        assert!(layout.sequence_bytes(fit.context) as u64 <= GIB);
        assert!(layout.sequence_bytes(fit.context + 1) as u64 > GIB);
        let small = &fits(&needs, 8 * GIB)[0];
        assert!(!small.in_memory && small.roofline.is_none() && small.context > 0);
    }
}
