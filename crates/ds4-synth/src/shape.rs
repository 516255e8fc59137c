//! The published shapes and storage recipes.

use ds4_gguf::TensorType;

/// Storage types of a published file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Routed experts IQ2_XXS (gate, up) and Q2_K (down), the rest as published.
    Q2,
    /// Routed experts Q4_K.
    Q4,
    /// Routed experts MXFP4.
    Mxfp4,
}

/// Dimensions of a DeepSeek V4 model and the types it is stored in.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named as in the model's configuration
pub struct Shape {
    pub name: &'static str,
    pub recipe: Recipe,
    pub n_layer: usize,
    pub n_embd: u64,
    pub n_vocab: u64,
    pub n_head: u64,
    pub head_dim: u64,
    pub rope_dim: u64,
    pub q_rank: u64,
    pub o_rank: u64,
    pub o_groups: u64,
    pub window: u64,
    pub idx_heads: u64,
    pub idx_dim: u64,
    pub idx_topk: u64,
    pub n_expert: u64,
    pub n_expert_used: u64,
    pub n_ff: u64,
    pub n_hash_layer: usize,
    pub hc: u64,
    /// Layers before the alternation of ratios 4 and 128 begins, without compression.
    pub plain_layers: usize,
}

/// One tensor to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Storage type.
    pub ty: TensorType,
    /// Dimensions, contiguous one first.
    pub dims: Vec<u64>,
    /// What its values are.
    pub content: Content,
}

/// What a tensor's values are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content {
    /// Random, of a size that keeps activations as large as they are.
    Weights,
    /// One value everywhere.
    Constant(f32),
    /// Random expert ids, all different within a row.
    Experts,
}

impl TensorSpec {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<u64>() / self.ty.block_len() as u64 * self.ty.block_bytes() as u64
    }
}

impl Shape {
    /// DeepSeek V4 Flash: 284 B parameters.
    pub const V4_FLASH: Shape = Shape {
        name: "v4-flash-q2",
        recipe: Recipe::Q2,
        n_layer: 43,
        n_embd: 4096,
        n_vocab: 129_280,
        n_head: 64,
        head_dim: 512,
        rope_dim: 64,
        q_rank: 1024,
        o_rank: 1024,
        o_groups: 8,
        window: 128,
        idx_heads: 64,
        idx_dim: 128,
        idx_topk: 512,
        n_expert: 256,
        n_expert_used: 6,
        n_ff: 2048,
        n_hash_layer: 3,
        hc: 4,
        plain_layers: 2,
    };

    /// The small model that ds4 embeds.
    pub const NANO: Shape = Shape {
        name: "nano",
        recipe: Recipe::Q2,
        n_layer: 7,
        n_embd: 256,
        n_vocab: 2560,
        n_head: 8,
        head_dim: 128,
        rope_dim: 64,
        q_rank: 128,
        o_rank: 64,
        o_groups: 2,
        window: 128,
        idx_heads: 4,
        idx_dim: 128,
        idx_topk: 128,
        n_expert: 12,
        n_expert_used: 4,
        n_ff: 256,
        n_hash_layer: 3,
        hc: 4,
        plain_layers: 2,
    };

    /// Every shape by name.
    pub const ALL: [Shape; 4] = [
        Self::V4_FLASH,
        Shape { name: "v4-flash-q4", recipe: Recipe::Q4, ..Self::V4_FLASH },
        Shape { name: "v4-flash-mxfp4", recipe: Recipe::Mxfp4, ..Self::V4_FLASH },
        Self::NANO,
    ];

    /// The shape of that name.
    pub fn by_name(name: &str) -> Option<Shape> {
        Self::ALL.into_iter().find(|shape| shape.name == name)
    }

    /// Compression ratio of a layer: none at first, then 4 and 128 in turn.
    pub fn ratio(&self, layer: usize) -> u64 {
        match layer {
            n if n < self.plain_layers => 0,
            n if (n - self.plain_layers).is_multiple_of(2) => 4,
            _ => 128,
        }
    }

    /// Every tensor of a model with the first `layers` layers, in file order.
    pub fn tensors(&self, layers: usize) -> Vec<TensorSpec> {
        use TensorType::{F16, F32, I32, Q8_0};
        let mut list = List(Vec::new());
        let streams = self.hc * self.n_embd;
        list.weights("token_embd.weight", F16, &[self.n_embd, self.n_vocab]);
        list.weights("output.weight", Q8_0, &[self.n_embd, self.n_vocab]);
        list.constant("output_norm.weight", &[self.n_embd], 1.0);
        list.weights("output_hc_fn.weight", F16, &[streams, self.hc]);
        list.constant("output_hc_base.weight", &[self.hc], 0.0);
        list.constant("output_hc_scale.weight", &[1], 1.0);
        let (gate_up, down) = match self.recipe {
            Recipe::Q2 => (TensorType::IQ2_XXS, TensorType::Q2_K),
            Recipe::Q4 => (TensorType::Q4_K, TensorType::Q4_K),
            Recipe::Mxfp4 => (TensorType::MXFP4, TensorType::MXFP4),
        };
        for n in 0..layers {
            let ratio = self.ratio(n);
            let name = |suffix: &str| format!("blk.{n}.{suffix}");
            for which in ["hc_attn", "hc_ffn"] {
                let outputs = (2 + self.hc) * self.hc;
                list.weights(&name(&format!("{which}_fn.weight")), F16, &[streams, outputs]);
                list.constant(&name(&format!("{which}_base.weight")), &[outputs], 0.0);
                list.constant(&name(&format!("{which}_scale.weight")), &[3], 1.0);
            }
            list.constant(&name("attn_norm.weight"), &[self.n_embd], 1.0);
            list.constant(&name("ffn_norm.weight"), &[self.n_embd], 1.0);
            let heads = self.n_head * self.head_dim;
            list.weights(&name("attn_q_a.weight"), Q8_0, &[self.n_embd, self.q_rank]);
            list.constant(&name("attn_q_a_norm.weight"), &[self.q_rank], 1.0);
            list.weights(&name("attn_q_b.weight"), Q8_0, &[self.q_rank, heads]);
            list.weights(&name("attn_kv.weight"), Q8_0, &[self.n_embd, self.head_dim]);
            list.constant(&name("attn_kv_a_norm.weight"), &[self.head_dim], 1.0);
            list.constant(&name("attn_sinks.weight"), &[self.n_head], 0.0);
            let low = self.o_groups * self.o_rank;
            list.weights(&name("attn_output_a.weight"), Q8_0, &[heads / self.o_groups, low]);
            list.weights(&name("attn_output_b.weight"), Q8_0, &[low, self.n_embd]);
            if ratio > 0 {
                self.compressor(&mut list, &name("attn_compressor"), ratio, self.head_dim);
            }
            if ratio == 4 {
                list.weights(&name("indexer.attn_q_b.weight"), F16, &[self.q_rank, self.idx_heads * self.idx_dim]);
                list.weights(&name("indexer.proj.weight"), F16, &[self.n_embd, self.idx_heads]);
                self.compressor(&mut list, &name("indexer_compressor"), ratio, self.idx_dim);
            }
            list.weights(&name("ffn_gate_inp.weight"), F16, &[self.n_embd, self.n_expert]);
            if n < self.n_hash_layer {
                let dims = [self.n_expert_used, self.n_vocab];
                list.push(&name("ffn_gate_tid2eid.weight"), I32, &dims, Content::Experts);
            } else {
                list.constant(&name("exp_probs_b.bias"), &[self.n_expert], 0.0);
            }
            list.weights(&name("ffn_gate_exps.weight"), gate_up, &[self.n_embd, self.n_ff, self.n_expert]);
            list.weights(&name("ffn_up_exps.weight"), gate_up, &[self.n_embd, self.n_ff, self.n_expert]);
            list.weights(&name("ffn_down_exps.weight"), down, &[self.n_ff, self.n_embd, self.n_expert]);
            list.weights(&name("ffn_gate_shexp.weight"), Q8_0, &[self.n_embd, self.n_ff]);
            list.weights(&name("ffn_up_shexp.weight"), Q8_0, &[self.n_embd, self.n_ff]);
            list.weights(&name("ffn_down_shexp.weight"), Q8_0, &[self.n_ff, self.n_embd]);
        }
        debug_assert!(list.0.iter().all(|spec| spec.ty != F32 || spec.content != Content::Weights));
        list.0
    }

    fn compressor(&self, list: &mut List, prefix: &str, ratio: u64, dim: u64) {
        let width = if ratio == 4 { 2 * dim } else { dim };
        list.weights(&format!("{prefix}_kv.weight"), TensorType::F16, &[self.n_embd, width]);
        list.weights(&format!("{prefix}_gate.weight"), TensorType::F16, &[self.n_embd, width]);
        list.weights(&format!("{prefix}_ape.weight"), TensorType::F16, &[width, ratio]);
        list.constant(&format!("{prefix}_norm.weight"), &[dim], 1.0);
    }
}

struct List(Vec<TensorSpec>);

impl List {
    fn push(&mut self, name: &str, ty: TensorType, dims: &[u64], content: Content) {
        self.0.push(TensorSpec { name: name.to_owned(), ty, dims: dims.to_vec(), content });
    }

    fn weights(&mut self, name: &str, ty: TensorType, dims: &[u64]) {
        self.push(name, ty, dims, Content::Weights);
    }

    fn constant(&mut self, name: &str, dims: &[u64], value: f32) {
        self.push(name, TensorType::F32, dims, Content::Constant(value));
    }
}
