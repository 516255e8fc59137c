//! The metadata of a synthetic file: all keys that a published one has.

use ds4_gguf::{Array, Metadata, StrArray, Value};

use crate::Shape;

/// The arrays of a vocabulary, as GGUF metadata has them.
#[derive(Clone, Debug, Default)]
pub struct TokenizerArrays {
    /// Spelling of each id.
    pub tokens: Vec<String>,
    /// Type of each id: 1 normal, 3 control, 4 user-defined.
    pub token_types: Vec<i32>,
    /// Merges by rank.
    pub merges: Vec<String>,
}

pub(crate) fn metadata(shape: &Shape, layers: usize, tokenizer: Option<&TokenizerArrays>) -> Metadata {
    let mut metadata = Metadata::new(shape.name);
    let mut set = |key: &str, value: Value| {
        metadata.insert(key, value);
    };
    let text = |s: &str| Value::Str(s.to_owned());
    set("general.architecture", text("deepseek4"));
    set("general.name", Value::Str(format!("synthetic {} with random weights", shape.name)));
    set("general.quantization_version", Value::U32(2));

    let u32s = [
        ("block_count", layers as u64),
        ("context_length", 1 << 20),
        ("embedding_length", shape.n_embd),
        ("embedding_length_out", shape.hc * shape.n_embd),
        ("vocab_size", shape.n_vocab),
        ("attention.head_count", shape.n_head),
        ("attention.head_count_kv", 1),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("attention.q_lora_rank", shape.q_rank),
        ("attention.output_lora_rank", shape.o_rank),
        ("attention.output_group_count", shape.o_groups),
        ("attention.sliding_window", shape.window),
        ("attention.indexer.head_count", shape.idx_heads),
        ("attention.indexer.key_length", shape.idx_dim),
        ("attention.indexer.top_k", shape.idx_topk),
        ("rope.dimension_count", shape.rope_dim),
        ("rope.scaling.original_context_length", 65_536),
        ("expert_count", shape.n_expert),
        ("expert_used_count", shape.n_expert_used),
        ("expert_shared_count", 1),
        ("expert_feed_forward_length", shape.n_ff),
        ("expert_gating_func", 4),
        ("hash_layer_count", shape.n_hash_layer.min(layers) as u64),
        ("hyper_connection.count", shape.hc),
        ("hyper_connection.sinkhorn_iterations", 20),
        ("nextn_predict_layers", 0),
    ];
    for (key, value) in u32s {
        set(&format!("deepseek4.{key}"), Value::U32(value as u32));
    }
    let f32s = [
        ("attention.compress_rope_freq_base", 160_000.0),
        ("attention.layer_norm_rms_epsilon", 1e-6),
        ("rope.freq_base", 10_000.0),
        ("rope.scaling.factor", 16.0),
        ("rope.scaling.yarn_beta_fast", 32.0),
        ("rope.scaling.yarn_beta_slow", 1.0),
        ("expert_weights_scale", 1.5),
        ("hyper_connection.epsilon", 1e-6),
    ];
    for (key, value) in f32s {
        set(&format!("deepseek4.{key}"), Value::F32(value));
    }
    set("deepseek4.rope.scaling.type", text("yarn"));
    set("deepseek4.expert_weights_norm", Value::Bool(true));
    let ratios = (0..layers).map(|n| shape.ratio(n) as i32).collect();
    set("deepseek4.attention.compress_ratios", Value::Array(Array::I32(ratios)));
    for key in ["swiglu_clamp_exp", "swiglu_clamp_shexp"] {
        set(&format!("deepseek4.{key}"), Value::Array(Array::F32(vec![10.0; layers])));
    }

    if let Some(arrays) = tokenizer {
        set("tokenizer.ggml.model", text("gpt2"));
        set("tokenizer.ggml.pre", text("joyai-llm"));
        set("tokenizer.ggml.tokens", strings(&arrays.tokens));
        set("tokenizer.ggml.token_type", Value::Array(Array::I32(arrays.token_types.clone())));
        set("tokenizer.ggml.merges", strings(&arrays.merges));
        for (key, id) in [("bos", 0), ("eos", 1), ("padding", 1)] {
            set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
        }
        for key in ["bos", "eos"] {
            set(&format!("tokenizer.ggml.add_{key}_token"), Value::Bool(false));
        }
    }
    metadata
}

fn strings(list: &[String]) -> Value {
    Value::Array(Array::Str(list.iter().collect::<StrArray>()))
}
