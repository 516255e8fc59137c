//! The shape of a model: every dimension and constant, from GGUF metadata.

use ds4_gguf::{Gguf, Metadata};

use crate::ModelError;
use crate::rounding::{INDEX_GROUP, KV_GROUP};
use crate::state::OVERLAPPING_RATIO;

/// Largest value accepted for any single dimension. Far above every published model, far below overflow.
const LARGEST_DIMENSION: u64 = 1 << 22;
/// Most layers, heads, groups, experts or streams accepted.
const LARGEST_COUNT: u64 = 1 << 12;
/// Longest span of tokens that one page may have to cover.
const LARGEST_PAGE: usize = 1 << 12;

/// Dimensions and constants of a DeepSeek V4 model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Layers.
    pub n_layer: usize,
    /// Hidden width.
    pub n_embd: usize,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Longest context that the model was made for, in tokens.
    pub context_length: usize,
    /// Query heads. There is one KV head.
    pub n_head: usize,
    /// Width of a head; keys are values.
    pub head_dim: usize,
    /// Rotary channels, the last ones of a head.
    pub rope_dim: usize,
    /// Rank of the query projection.
    pub q_rank: usize,
    /// Rank of each group of the output projection.
    pub o_rank: usize,
    /// Groups of the output projection.
    pub o_groups: usize,
    /// Raw KV rows that a token sees, itself included.
    pub window: usize,
    /// Compression ratio of each layer: 0 (window only), 4 (with indexer), 128.
    pub ratios: Vec<usize>,
    /// Indexer heads.
    pub idx_heads: usize,
    /// Width of an indexer head.
    pub idx_dim: usize,
    /// Compressed rows that the indexer keeps.
    pub idx_topk: usize,
    /// Routed experts.
    pub n_expert: usize,
    /// Routed experts used by a token.
    pub n_expert_used: usize,
    /// Inner width of an expert.
    pub n_ff: usize,
    /// Inner width of the shared expert.
    pub n_ff_shared: usize,
    /// Factor on the normalized routing weights.
    pub expert_weights_scale: f32,
    /// First layers that route by token id.
    pub n_hash_layer: usize,
    /// Clamp of the SwiGLU, per layer.
    pub swiglu_limit: Vec<f32>,
    /// Hyper-connection streams.
    pub hc: usize,
    /// Sinkhorn iterations.
    pub sinkhorn_iterations: usize,
    /// Epsilon of the hyper-connections.
    pub hc_eps: f32,
    /// Epsilon of every RMSNorm.
    pub eps: f32,
    /// Rotary base of layers without compression.
    pub rope_theta: f32,
    /// Rotary base of layers with compression.
    pub rope_theta_compressed: f32,
    /// YaRN factor, original length and ramp.
    pub yarn_factor: f32,
    /// Context length before YaRN.
    pub yarn_original_length: usize,
    /// Rotations above which a frequency is kept.
    pub yarn_beta_fast: f32,
    /// Rotations below which a frequency is divided by the factor.
    pub yarn_beta_slow: f32,
}

impl Config {
    /// Reads and validates the shape.
    ///
    /// # Errors
    /// Another architecture; a missing or mistyped key; a value that no model of this kind can have.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let keys = Keys { file: gguf.name(), metadata: gguf.metadata() };
        let architecture = keys.metadata.str("general.architecture")?;
        if architecture != "deepseek4" {
            return Err(ModelError::Architecture { file: gguf.name().to_owned(), found: architecture.to_owned() });
        }

        let n_layer = keys.count("block_count")?;
        keys.must_be("attention.head_count_kv", 1)?;
        keys.must_be_if_present("expert_gating_func", 4)?;
        keys.must_be_if_present("expert_group_count", 0)?;
        keys.must_be_if_present("expert_group_used_count", 0)?;
        keys.must_be("expert_shared_count", 1)?;
        let head_dim = keys.dimension("attention.key_length")?;
        keys.must_be("attention.value_length", head_dim as u64)?;
        if !keys.metadata.bool("deepseek4.expert_weights_norm")? {
            return Err(keys.refuse("expert_weights_norm", false, "true"));
        }
        if keys.has("rope.scaling.type") {
            let kind = keys.metadata.str("deepseek4.rope.scaling.type")?;
            if kind != "yarn" {
                return Err(keys.refuse("rope.scaling.type", kind, "\"yarn\""));
            }
        }
        let n_ff = keys.dimension("expert_feed_forward_length")?;

        let config = Self {
            n_layer,
            n_embd: keys.dimension("embedding_length")?,
            n_vocab: keys.dimension("vocab_size")?,
            context_length: match keys.has("context_length") {
                true => keys.positive("context_length", u64::from(u32::MAX))?,
                false => 1 << 20,
            },
            n_head: keys.count("attention.head_count")?,
            head_dim,
            rope_dim: keys.dimension("rope.dimension_count")?,
            q_rank: keys.dimension("attention.q_lora_rank")?,
            o_rank: keys.dimension("attention.output_lora_rank")?,
            o_groups: keys.count("attention.output_group_count")?,
            window: keys.dimension("attention.sliding_window")?,
            ratios: keys.ratios(n_layer)?,
            idx_heads: keys.count("attention.indexer.head_count")?,
            idx_dim: keys.dimension("attention.indexer.key_length")?,
            idx_topk: keys.dimension("attention.indexer.top_k")?,
            n_expert: keys.count("expert_count")?,
            n_expert_used: keys.count("expert_used_count")?,
            n_ff,
            n_ff_shared: n_ff,
            expert_weights_scale: keys.float("expert_weights_scale")?,
            n_hash_layer: keys.metadata.u32("deepseek4.hash_layer_count")? as usize,
            swiglu_limit: keys.limits(n_layer)?,
            hc: keys.positive("hyper_connection.count", 16)?,
            sinkhorn_iterations: keys.count("hyper_connection.sinkhorn_iterations")?,
            hc_eps: keys.float("hyper_connection.epsilon")?,
            eps: keys.float("attention.layer_norm_rms_epsilon")?,
            rope_theta: keys.float("rope.freq_base")?,
            rope_theta_compressed: keys.float("attention.compress_rope_freq_base")?,
            yarn_factor: keys.float("rope.scaling.factor")?,
            yarn_original_length: keys.positive("rope.scaling.original_context_length", u64::from(u32::MAX))?,
            yarn_beta_fast: keys.float("rope.scaling.yarn_beta_fast")?,
            yarn_beta_slow: keys.float("rope.scaling.yarn_beta_slow")?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    /// Relations between dimensions that the formulas and the cache formats rely on.
    fn check(&self, keys: &Keys) -> Result<(), ModelError> {
        let nope = self.head_dim.checked_sub(self.rope_dim);
        let rules = [
            (
                self.rope_dim.is_multiple_of(2) && self.rope_dim <= self.idx_dim,
                "rope.dimension_count",
                self.rope_dim,
                "an even number not above attention.indexer.key_length",
            ),
            (
                nope.is_some_and(|n| n.is_multiple_of(KV_GROUP)),
                "attention.key_length",
                self.head_dim,
                "rope.dimension_count plus a multiple of 64",
            ),
            (
                self.idx_dim.is_power_of_two() && self.idx_dim.is_multiple_of(INDEX_GROUP),
                "attention.indexer.key_length",
                self.idx_dim,
                "a power of two, at least 32",
            ),
            (
                self.n_head.is_multiple_of(self.o_groups),
                "attention.output_group_count",
                self.o_groups,
                "a divisor of attention.head_count",
            ),
            (self.n_expert_used <= self.n_expert, "expert_used_count", self.n_expert_used, "at most expert_count"),
            (
                page_tokens(&self.ratios).is_some(),
                "attention.compress_ratios",
                self.ratios.iter().copied().max().unwrap_or(0),
                "ratios whose least common multiple is at most 4096",
            ),
        ];
        match rules.into_iter().find(|rule| !rule.0) {
            Some((_, key, found, expected)) => Err(keys.refuse(key, found, expected)),
            None => Ok(()),
        }
    }

    /// Whether a layer of this ratio has an indexer.
    pub fn has_indexer(&self, ratio: usize) -> bool {
        ratio == OVERLAPPING_RATIO
    }

    /// Whether a layer of this ratio compresses overlapping windows.
    pub fn overlaps(&self, ratio: usize) -> bool {
        ratio == OVERLAPPING_RATIO
    }

    /// Width of the compressor features of a layer of this ratio, for rows of width `dim`.
    pub fn compressor_width(&self, ratio: usize, dim: usize) -> usize {
        if self.overlaps(ratio) { 2 * dim } else { dim }
    }

    /// Tokens that a page of compressed rows spans: a multiple of every ratio.
    pub fn page_tokens(&self) -> usize {
        page_tokens(&self.ratios).unwrap_or(LARGEST_PAGE)
    }
}

/// The least common multiple of the ratios, 128 for a model without compression.
fn page_tokens(ratios: &[usize]) -> Option<usize> {
    let tokens = ratios.iter().filter(|&&r| r > 0).try_fold(1usize, |lcm, &ratio| {
        let lcm = lcm / gcd(lcm, ratio) * ratio;
        (lcm <= LARGEST_PAGE).then_some(lcm)
    })?;
    Some(if tokens == 1 { 128 } else { tokens })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Reads `deepseek4.*` keys and words the refusals.
struct Keys<'a> {
    file: &'a str,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn has(&self, key: &str) -> bool {
        self.metadata.contains(&full(key))
    }

    fn refuse(&self, key: &str, found: impl ToString, expected: &str) -> ModelError {
        ModelError::Metadata {
            file: self.file.to_owned(),
            key: full(key),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    fn positive(&self, key: &str, largest: u64) -> Result<usize, ModelError> {
        let value = self.metadata.u64(&full(key))?;
        match value {
            0 => Err(self.refuse(key, value, "at least 1")),
            v if v > largest => Err(self.refuse(key, value, &format!("at most {largest}"))),
            v => Ok(v as usize),
        }
    }

    fn dimension(&self, key: &str) -> Result<usize, ModelError> {
        self.positive(key, LARGEST_DIMENSION)
    }

    fn count(&self, key: &str) -> Result<usize, ModelError> {
        self.positive(key, LARGEST_COUNT)
    }

    fn must_be(&self, key: &str, expected: u64) -> Result<(), ModelError> {
        let value = self.metadata.u64(&full(key))?;
        if value == expected { Ok(()) } else { Err(self.refuse(key, value, &expected.to_string())) }
    }

    fn must_be_if_present(&self, key: &str, expected: u64) -> Result<(), ModelError> {
        if self.has(key) { self.must_be(key, expected) } else { Ok(()) }
    }

    /// A positive finite number.
    fn float(&self, key: &str) -> Result<f32, ModelError> {
        let value = self.metadata.f32(&full(key))?;
        if value.is_finite() && value > 0.0 { Ok(value) } else { Err(self.refuse(key, value, "a positive number")) }
    }

    /// One ratio per layer; files carry one more for the MTP block.
    fn ratios(&self, n_layer: usize) -> Result<Vec<usize>, ModelError> {
        const KEY: &str = "attention.compress_ratios";
        let ratios = self.metadata.u32_array(&full(KEY))?;
        if ratios.len() < n_layer {
            return Err(self.refuse(
                KEY,
                format!("{} values", ratios.len()),
                &format!("one for each of {n_layer} layers"),
            ));
        }
        match ratios[..n_layer].iter().find(|&&r| r == 1 || r as usize > LARGEST_PAGE) {
            Some(ratio) => Err(self.refuse(KEY, ratio, "0 (no compression), 4 or 128")),
            None => Ok(ratios[..n_layer].iter().map(|&r| r as usize).collect()),
        }
    }

    fn limits(&self, n_layer: usize) -> Result<Vec<f32>, ModelError> {
        const KEY: &str = "swiglu_clamp_exp";
        let limits = self.metadata.f32_array(&full(KEY))?;
        if limits.len() < n_layer {
            return Err(self.refuse(
                KEY,
                format!("{} values", limits.len()),
                &format!("one for each of {n_layer} layers"),
            ));
        }
        match limits[..n_layer].iter().find(|l| !(l.is_finite() && **l > 0.0)) {
            Some(limit) => Err(self.refuse(KEY, limit, "positive numbers")),
            None => Ok(limits[..n_layer].to_vec()),
        }
    }
}

fn full(key: &str) -> String {
    format!("deepseek4.{key}")
}
