//! A model file bound to its roles: every tensor present, of the right shape, of a type that its role accepts.
//!
//! Matrices stay in the file mapping; only small vectors are copied out. Opening an 81 GB file reads its
//! header, the vectors and the hash-routing tables.

mod bind;
mod fingerprint;

use ds4_gguf::{Gguf, TensorType, quant};

use crate::{Config, ModelError};

/// A matrix, or a stack of matrices, in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Storage type.
    pub ty: TensorType,
    /// Input dimension: elements of a row.
    pub cols: usize,
    /// Output dimension: rows of one matrix.
    pub rows: usize,
    /// Number of matrices: 1, or the number of experts.
    pub slabs: usize,
    /// Index of the tensor in the file.
    index: usize,
}

/// How a layer chooses its experts.
#[derive(Clone, Debug)]
pub enum Routing {
    /// By token id, from a table [n_vocab, n_expert_used].
    ByToken(Tensor),
    /// By score plus this bias, [n_expert].
    ByScore(Vec<f32>),
}

/// A hyper-connection's parameters.
#[derive(Clone, Debug)]
pub struct HyperConnection {
    /// Projection of all streams, [hc * n_embd] → [(2 + hc) * hc], or → [hc] in the head.
    pub project: Tensor,
    /// Bias, one per output of the projection.
    pub base: Vec<f32>,
    /// Scales of the three parts (one in the head).
    pub scale: Vec<f32>,
}

/// A compressor's parameters.
#[derive(Clone, Debug)]
pub struct CompressorTensors {
    /// Value projection, [n_embd] → [width].
    pub kv: Tensor,
    /// Gate projection, [n_embd] → [width].
    pub gate: Tensor,
    /// Position bias of the gates, [ratio, width].
    pub ape: Vec<f32>,
    /// Norm weight of the pooled row.
    pub norm: Vec<f32>,
}

/// A lightning indexer's parameters.
#[derive(Clone, Debug)]
pub struct IndexerTensors {
    /// Queries from the query latent, [q_rank] → [idx_heads * idx_dim].
    pub q_b: Tensor,
    /// Head weights, [n_embd] → [idx_heads].
    pub weights: Tensor,
    /// Its own compressor.
    pub compressor: CompressorTensors,
}

/// A layer's tensors.
#[derive(Clone, Debug)]
pub struct LayerTensors {
    /// Hyper-connection of the attention sublayer.
    pub hc_attn: HyperConnection,
    /// Hyper-connection of the expert sublayer.
    pub hc_ffn: HyperConnection,
    /// Norm weight before attention, [n_embd].
    pub attn_norm: Vec<f32>,
    /// Norm weight before the experts, [n_embd].
    pub ffn_norm: Vec<f32>,
    /// Query down projection, [n_embd] → [q_rank].
    pub q_a: Tensor,
    /// Norm weight of the query latent, [q_rank].
    pub q_a_norm: Vec<f32>,
    /// Query up projection, [q_rank] → [n_head * head_dim].
    pub q_b: Tensor,
    /// KV projection, [n_embd] → [head_dim].
    pub kv: Tensor,
    /// Norm weight of the KV row, [head_dim].
    pub kv_norm: Vec<f32>,
    /// Attention sinks, [n_head].
    pub sinks: Vec<f32>,
    /// First output projection, [n_head * head_dim / o_groups] → [o_groups * o_rank], row-grouped.
    pub out_a: Tensor,
    /// Second output projection, [o_groups * o_rank] → [n_embd].
    pub out_b: Tensor,
    /// Compressor, in layers with compression.
    pub compressor: Option<CompressorTensors>,
    /// Indexer, in layers of ratio 4.
    pub indexer: Option<IndexerTensors>,
    /// Router, [n_embd] → [n_expert].
    pub router: Tensor,
    /// How experts are chosen.
    pub routing: Routing,
    /// Gate matrices of the routed experts, [n_embd] → [n_ff] each.
    pub gate_exps: Tensor,
    /// Up matrices.
    pub up_exps: Tensor,
    /// Down matrices, [n_ff] → [n_embd] each.
    pub down_exps: Tensor,
    /// Gate matrix of the shared expert.
    pub gate_shexp: Tensor,
    /// Up matrix.
    pub up_shexp: Tensor,
    /// Down matrix.
    pub down_shexp: Tensor,
}

/// A validated model file.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
    config: Config,
    /// Token embedding, [n_vocab] rows of n_embd.
    pub token_embd: Tensor,
    /// Output matrix, [n_embd] → [n_vocab].
    pub output: Tensor,
    /// Norm weight before it, [n_embd].
    pub output_norm: Vec<f32>,
    /// Hyper-connection of the head.
    pub output_hc: HyperConnection,
    /// The layers.
    pub layers: Vec<LayerTensors>,
}

impl Model {
    /// Its shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The bytes of a tensor, all slabs.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.gguf.data(&self.gguf.tensors()[tensor.index])
    }

    /// The bytes of one matrix of a stack.
    pub fn slab(&self, tensor: &Tensor, slab: usize) -> &[u8] {
        let bytes = self.bytes(tensor);
        let size = bytes.len() / tensor.slabs;
        &bytes[slab * size..(slab + 1) * size]
    }

    /// Decodes row `row`, counted through all slabs, into `out` [cols].
    pub fn decode_row(&self, tensor: &Tensor, row: usize, out: &mut [f32]) {
        let bytes = self.bytes(tensor);
        let size = bytes.len() / (tensor.rows * tensor.slabs);
        quant::dequantize_row(tensor.ty, &bytes[row * size..(row + 1) * size], out);
    }

    /// The experts that a hash-routed layer gives to a token. Ids were checked when the file was bound.
    pub fn experts_of_token(&self, table: &Tensor, token: u32) -> Vec<u32> {
        let row = &self.bytes(table)[token as usize * table.cols * 4..][..table.cols * 4];
        row.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect()
    }

    /// A number that tells this model from all others: for caches. It covers hyperparameters, tensors and data; of a large file
    /// the data in blocks that are spread over every tensor.
    pub fn fingerprint(&self) -> u64 {
        fingerprint::fingerprint(&self.gguf, &self.config)
    }

    /// Binds a file's tensors to their roles.
    ///
    /// # Errors
    /// What [`Config::from_gguf`] refuses; a missing tensor; a shape that does not follow from the metadata; a type
    /// that a role cannot have; an expert id out of range.
    pub fn new(gguf: Gguf) -> Result<Self, ModelError> {
        bind::bind(gguf)
    }
}
