//! Everything that is said about a file, as data.

use std::collections::BTreeMap;

use ds4_gguf::{Gguf, Metadata, TensorInfo, TensorType, Value};
use ds4_model::{Config, KvPrecision, Model, ModelError, ReadCost, StateLayout};
use serde::Serialize;

use super::class::Class;
use super::deep::DeepResult;
use crate::card::CardFit;
use crate::fit::{self, Fit};
use crate::machine::Memory;
use crate::model_source::{check_vocabulary, tokenizer_of};

/// Context lengths for which the memory is stated, in tokens.
const CONTEXTS: [usize; 3] = [8_192, 131_072, 1_048_576];

/// What is known about a file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Path, or what the built-in model is called.
    pub file: String,
    /// Length of the file.
    pub file_bytes: u64,
    /// Whether ds4 can run it: nothing is wrong.
    pub runs: bool,
    /// Why it cannot be run, in sentences.
    pub problems: Vec<String>,
    /// What the file says about itself.
    pub metadata: Notes,
    /// The model's shape, if it is a DeepSeek V4 model.
    pub shape: Option<Shape>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors, each counted in full.
    pub tensor_bytes: u64,
    /// Bytes of the file that hold tensor data; less than `tensor_bytes` where tensors share them.
    pub stored_tensor_bytes: u64,
    /// Sums by role and type.
    pub classes: Vec<ClassSum>,
    /// Memory of a conversation, by cache precision.
    pub state: Vec<StateSize>,
    /// What decoding one token reads, if ds4 can run the file, at the model's own cache precision.
    pub reads: Vec<ReadsAt>,
    /// Whether it fits this machine, if ds4 can run it, at the model's own cache precision.
    pub fit: Option<Fit>,
    /// Whether it fits the NVIDIA cards of this machine, or the one that was asked about.
    pub cards: Vec<CardFit>,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorLine>,
    /// What reading every block found, if that was asked for.
    pub deep: Option<DeepResult>,
}

/// Metadata of note. What the file does not say is `None`.
#[derive(Debug, Default, Serialize)]
pub struct Notes {
    pub name: Option<String>,
    pub architecture: Option<String>,
    pub license: Option<String>,
    pub size_label: Option<String>,
    pub file_type: Option<u32>,
    pub file_type_name: Option<&'static str>,
    pub quantization_version: Option<u32>,
    pub tokenizer_model: Option<String>,
    pub tokenizer_pre: Option<String>,
    pub tokens: Option<usize>,
    pub merges: Option<usize>,
    pub chat_template: bool,
    /// Number of metadata keys.
    pub keys: usize,
}

/// The dimensions that people ask for.
#[derive(Debug, Serialize)]
pub struct Shape {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_vocab: usize,
    pub context_length: usize,
    pub n_head: usize,
    pub head_dim: usize,
    pub rope_dim: usize,
    pub q_rank: usize,
    pub o_rank: usize,
    pub o_groups: usize,
    pub window: usize,
    pub ratios: Vec<usize>,
    pub idx_heads: usize,
    pub idx_dim: usize,
    pub idx_topk: usize,
    pub n_expert: usize,
    pub n_expert_used: usize,
    pub n_ff: usize,
    pub n_hash_layer: usize,
    pub hc: usize,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub struct ClassSum {
    pub class: Class,
    #[serde(rename = "type", serialize_with = "type_name")]
    pub ty: TensorType,
    pub tensors: u64,
    pub parameters: u64,
    pub bytes: u64,
}

/// Memory of a conversation at one cache precision.
#[derive(Debug, Serialize)]
pub struct StateSize {
    pub kv_precision: String,
    pub bytes_per_token: f64,
    /// Bytes that do not grow: windows and unfinished compressor windows.
    pub fixed_bytes: u64,
    pub at: Vec<StateAt>,
}

/// Memory at one length of context.
#[derive(Debug, Serialize)]
pub struct StateAt {
    pub tokens: usize,
    pub bytes: u64,
}

/// Bytes that decoding one token reads at one length of context.
#[derive(Debug, Serialize)]
pub struct ReadsAt {
    pub tokens: usize,
    pub weight_bytes: u64,
    pub cache_bytes: u64,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct TensorLine {
    pub name: String,
    pub class: Class,
    #[serde(rename = "type", serialize_with = "type_name")]
    pub ty: TensorType,
    pub shape: Vec<u64>,
    pub offset: u64,
    pub bytes: u64,
}

fn type_name<S: serde::Serializer>(ty: &TensorType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(ty.name())
}

impl Report {
    /// Looks at everything but the tensors' data (of which the vectors and routing tables are read).
    /// `card_memory`: bytes of a card that is planned for instead of this machine's.
    pub fn new(gguf: &Gguf, card_memory: Option<u64>) -> Report {
        let config = Config::from_gguf(gguf);
        let model = Model::new(gguf.clone());
        let problems = problems(gguf, &model);
        let tensors = gguf.tensors();
        Report {
            file: gguf.name().to_owned(),
            file_bytes: gguf.file_len(),
            runs: problems.is_empty(),
            problems,
            metadata: Notes::new(gguf.metadata()),
            parameters: sum(tensors.iter().map(TensorInfo::n_elements)),
            tensor_bytes: sum(tensors.iter().map(|info| info.size)),
            stored_tensor_bytes: stored_bytes(tensors),
            classes: classes(tensors),
            state: config.as_ref().map(states).unwrap_or_default(),
            reads: model.as_ref().map(reads).unwrap_or_default(),
            fit: model.as_ref().ok().map(fit_of),
            cards: model.as_ref().map(|model| cards(model, card_memory)).unwrap_or_default(),
            shape: config.ok().map(Shape::from),
            tensors: tensors.iter().map(TensorLine::from).collect(),
            deep: None,
        }
    }

    /// Whether nothing is wrong, as far as was looked.
    pub fn is_sound(&self) -> bool {
        self.runs && self.deep.as_ref().is_none_or(|deep| deep.bad_tensors.is_empty())
    }
}

/// How the model fits this machine as it is now. Its speed is not measured here.
fn fit_of(model: &Model) -> Fit {
    fit::of_model(model.gguf().name().to_owned(), model, KvPrecision::Model, Memory::look(), None)
}

fn cards(model: &Model, memory: Option<u64>) -> Vec<CardFit> {
    match memory {
        Some(memory) => vec![CardFit::new("NVIDIA card".to_owned(), memory, model, KvPrecision::Model)],
        None => CardFit::of_this_machine(model, KvPrecision::Model),
    }
}

/// A file may claim tensors of any size over the same bytes; a sum that does not fit stays at the top.
fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// Why ds4 cannot run the file: the model's first problem and the tokenizer's.
fn problems(gguf: &Gguf, model: &Result<Model, ModelError>) -> Vec<String> {
    if let Err(error @ ModelError::Architecture { .. }) = model {
        // Of another kind of model, the tokenizer is not ours to judge.
        return vec![error.to_string()];
    }
    let tokenizer = tokenizer_of(gguf);
    let mut problems = Vec::new();
    if let (Ok(model), Ok(tokenizer)) = (model, &tokenizer) {
        problems.extend(check_vocabulary(model, tokenizer).err().map(|error| error.to_string()));
    }
    problems.extend(model.as_ref().err().map(|error| error.to_string()));
    problems.extend(tokenizer.err().map(|error| format!("{error:#}")));
    problems
}

/// Bytes of the union of the tensors' ranges.
fn stored_bytes(tensors: &[TensorInfo]) -> u64 {
    let mut ranges: Vec<(u64, u64)> = tensors.iter().map(|info| (info.offset, info.offset + info.size)).collect();
    ranges.sort_unstable();
    let mut end = 0;
    let mut total = 0;
    for (first, last) in ranges {
        total += last.saturating_sub(first.max(end));
        end = end.max(last);
    }
    total
}

fn classes(tensors: &[TensorInfo]) -> Vec<ClassSum> {
    let mut sums: BTreeMap<(Class, u32), ClassSum> = BTreeMap::new();
    for info in tensors {
        let class = Class::of(&info.name);
        let empty = ClassSum { class, ty: info.ty, tensors: 0, parameters: 0, bytes: 0 };
        let entry = sums.entry((class, info.ty.id())).or_insert(empty);
        entry.tensors += 1;
        entry.parameters = entry.parameters.saturating_add(info.n_elements());
        entry.bytes = entry.bytes.saturating_add(info.size);
    }
    sums.into_values().collect()
}

fn states(config: &Config) -> Vec<StateSize> {
    [KvPrecision::Model, KvPrecision::Exact]
        .into_iter()
        .map(|precision| {
            let layout = StateLayout::new(config, precision);
            StateSize {
                kv_precision: precision.to_string(),
                bytes_per_token: layout.bytes_per_token(),
                fixed_bytes: layout.sequence_bytes(0) as u64,
                at: lengths(config)
                    .map(|tokens| StateAt { tokens, bytes: layout.sequence_bytes(tokens) as u64 })
                    .collect(),
            }
        })
        .collect()
}

fn reads(model: &Model) -> Vec<ReadsAt> {
    let layout = StateLayout::new(model.config(), KvPrecision::Model);
    lengths(model.config())
        .map(|tokens| {
            let ReadCost { weights, cache } = ReadCost::of(model, &layout, tokens);
            ReadsAt { tokens, weight_bytes: weights, cache_bytes: cache }
        })
        .collect()
}

/// The lengths of context that the model was made for.
fn lengths(config: &Config) -> impl Iterator<Item = usize> {
    let longest = config.context_length;
    CONTEXTS.into_iter().filter(move |&tokens| tokens <= longest)
}

impl Notes {
    fn new(metadata: &Metadata) -> Notes {
        let text = |key: &str| metadata.str(key).ok().map(str::to_owned);
        let count = |key: &str| match metadata.get(key) {
            Some(Value::Array(array)) => Some(array.len()),
            _ => None,
        };
        let file_type = metadata.u32("general.file_type").ok();
        Notes {
            name: text("general.name"),
            architecture: text("general.architecture"),
            license: text("general.license"),
            size_label: text("general.size_label"),
            file_type,
            file_type_name: file_type.and_then(file_type_name),
            quantization_version: metadata.u32("general.quantization_version").ok(),
            tokenizer_model: text("tokenizer.ggml.model"),
            tokenizer_pre: text("tokenizer.ggml.pre"),
            tokens: count("tokenizer.ggml.tokens"),
            merges: count("tokenizer.ggml.merges"),
            chat_template: metadata.contains("tokenizer.chat_template"),
            keys: metadata.len(),
        }
    }
}

/// What `general.file_type` means, for the types that DeepSeek V4 files have: that of most weights.
fn file_type_name(file_type: u32) -> Option<&'static str> {
    Some(match file_type {
        0 => "F32",
        1 => "F16",
        7 => "Q8_0",
        10 => "Q2_K",
        14 => "Q4_K small",
        15 => "Q4_K medium",
        19 => "IQ2_XXS",
        32 => "BF16",
        38 => "MXFP4",
        _ => return None,
    })
}

impl From<Config> for Shape {
    fn from(config: Config) -> Shape {
        Shape {
            n_layer: config.n_layer,
            n_embd: config.n_embd,
            n_vocab: config.n_vocab,
            context_length: config.context_length,
            n_head: config.n_head,
            head_dim: config.head_dim,
            rope_dim: config.rope_dim,
            q_rank: config.q_rank,
            o_rank: config.o_rank,
            o_groups: config.o_groups,
            window: config.window,
            ratios: config.ratios,
            idx_heads: config.idx_heads,
            idx_dim: config.idx_dim,
            idx_topk: config.idx_topk,
            n_expert: config.n_expert,
            n_expert_used: config.n_expert_used,
            n_ff: config.n_ff,
            n_hash_layer: config.n_hash_layer,
            hc: config.hc,
        }
    }
}

impl From<&TensorInfo> for TensorLine {
    fn from(info: &TensorInfo) -> TensorLine {
        TensorLine {
            name: info.name.clone(),
            class: Class::of(&info.name),
            ty: info.ty,
            shape: info.dims().to_vec(),
            offset: info.offset,
            bytes: info.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_tensors_share_are_stored_once() {
        let gguf = crate::model_source::ModelSource::Demo.open().unwrap();
        let tensors = &gguf.tensors()[..2];
        let sizes = tensors[0].size + tensors[1].size;
        assert_eq!(stored_bytes(tensors), sizes);
        let twice = [tensors, tensors].concat();
        assert_eq!(stored_bytes(&twice), sizes);
        let mut inside = tensors[0].clone();
        inside.offset += 1;
        assert_eq!(stored_bytes(&[tensors[0].clone(), inside]), tensors[0].size + 1);
    }

    #[test]
    fn sums_cover_every_tensor() {
        let report = Report::new(&crate::model_source::ModelSource::Demo.open().unwrap(), None);
        assert_eq!(report.problems, [""; 0]);
        assert_eq!(report.classes.iter().map(|class| class.tensors).sum::<u64>(), report.tensors.len() as u64);
        assert_eq!(report.classes.iter().map(|class| class.bytes).sum::<u64>(), report.tensor_bytes);
        assert_eq!(report.tensor_bytes, report.stored_tensor_bytes);
        assert_eq!(report.state.len(), 2);
    }
}
