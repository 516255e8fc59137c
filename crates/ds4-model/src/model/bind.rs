//! Finding each role's tensor in a file and checking it.

use std::collections::HashMap;

use ds4_gguf::{Gguf, TensorInfo, TensorType, quant};

use super::{CompressorTensors, HyperConnection, IndexerTensors, LayerTensors, Model, Routing, Tensor};
use crate::{Config, ModelError};

/// Types of vectors and small tables.
const VECTOR: &[TensorType] = &[TensorType::F32, TensorType::F16, TensorType::BF16];
/// Types of every matrix outside the routed experts. Published files differ in which of these they use where.
const MATRIX: &[TensorType] = &[TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::Q8_0];
/// Types of the routed experts.
const EXPERTS: &[TensorType] = &[
    TensorType::IQ2_XXS,
    TensorType::Q2_K,
    TensorType::Q4_K,
    TensorType::MXFP4,
    TensorType::Q8_0,
    TensorType::F16,
    TensorType::BF16,
    TensorType::F32,
];

pub(super) fn bind(gguf: Gguf) -> Result<Model, ModelError> {
    let config = Config::from_gguf(&gguf)?;
    let by_name = gguf.tensors().iter().enumerate().map(|(index, info)| (info.name.as_str(), index)).collect();
    let binder = Binder { gguf: &gguf, config: &config, by_name };
    let (n_embd, hc) = (config.n_embd, config.hc);
    let token_embd = binder.matrix("token_embd.weight", MATRIX, [n_embd, config.n_vocab])?;
    let output = binder.matrix("output.weight", MATRIX, [n_embd, config.n_vocab])?;
    let output_norm = binder.vector("output_norm.weight", n_embd)?;
    let output_hc = binder.hyper_connection("output_hc", hc, 1)?;
    let layers = (0..config.n_layer).map(|n| binder.layer(n)).collect::<Result<_, _>>()?;
    Ok(Model { token_embd, output, output_norm, output_hc, layers, config, gguf })
}

struct Binder<'a> {
    gguf: &'a Gguf,
    config: &'a Config,
    by_name: HashMap<&'a str, usize>,
}

impl Binder<'_> {
    fn layer(&self, n: usize) -> Result<LayerTensors, ModelError> {
        let c = self.config;
        let name = |suffix: &str| format!("blk.{n}.{suffix}");
        let matrix = |suffix: &str, shape: [usize; 2]| self.matrix(&name(suffix), MATRIX, shape);
        let experts = |suffix: &str, cols, rows| self.stack(&name(suffix), [cols, rows, c.n_expert]);
        let vector = |suffix: &str, len| self.vector(&name(suffix), len);
        let (n_embd, width) = (c.n_embd, c.n_head * c.head_dim);
        let ratio = c.ratios[n];
        let compressor = match ratio {
            0 => None,
            _ => Some(self.compressor(&name("attn_compressor"), ratio, c.head_dim)?),
        };
        let indexer = match c.has_indexer(ratio) {
            false => None,
            true => Some(IndexerTensors {
                q_b: matrix("indexer.attn_q_b.weight", [c.q_rank, c.idx_heads * c.idx_dim])?,
                weights: matrix("indexer.proj.weight", [n_embd, c.idx_heads])?,
                compressor: self.compressor(&name("indexer_compressor"), ratio, c.idx_dim)?,
            }),
        };
        let routing = if n < c.n_hash_layer {
            Routing::ByToken(self.token_table(&name("ffn_gate_tid2eid.weight"))?)
        } else {
            Routing::ByScore(vector("exp_probs_b.bias", c.n_expert)?)
        };
        Ok(LayerTensors {
            hc_attn: self.hyper_connection(&name("hc_attn"), (2 + c.hc) * c.hc, 3)?,
            hc_ffn: self.hyper_connection(&name("hc_ffn"), (2 + c.hc) * c.hc, 3)?,
            attn_norm: vector("attn_norm.weight", n_embd)?,
            ffn_norm: vector("ffn_norm.weight", n_embd)?,
            q_a: matrix("attn_q_a.weight", [n_embd, c.q_rank])?,
            q_a_norm: vector("attn_q_a_norm.weight", c.q_rank)?,
            q_b: matrix("attn_q_b.weight", [c.q_rank, width])?,
            kv: matrix("attn_kv.weight", [n_embd, c.head_dim])?,
            kv_norm: vector("attn_kv_a_norm.weight", c.head_dim)?,
            sinks: vector("attn_sinks.weight", c.n_head)?,
            out_a: matrix("attn_output_a.weight", [width / c.o_groups, c.o_groups * c.o_rank])?,
            out_b: matrix("attn_output_b.weight", [c.o_groups * c.o_rank, n_embd])?,
            compressor,
            indexer,
            router: matrix("ffn_gate_inp.weight", [n_embd, c.n_expert])?,
            routing,
            gate_exps: experts("ffn_gate_exps.weight", n_embd, c.n_ff)?,
            up_exps: experts("ffn_up_exps.weight", n_embd, c.n_ff)?,
            down_exps: experts("ffn_down_exps.weight", c.n_ff, n_embd)?,
            gate_shexp: matrix("ffn_gate_shexp.weight", [n_embd, c.n_ff_shared])?,
            up_shexp: matrix("ffn_up_shexp.weight", [n_embd, c.n_ff_shared])?,
            down_shexp: matrix("ffn_down_shexp.weight", [c.n_ff_shared, n_embd])?,
        })
    }

    fn hyper_connection(&self, prefix: &str, outputs: usize, scales: usize) -> Result<HyperConnection, ModelError> {
        let inputs = self.config.hc * self.config.n_embd;
        Ok(HyperConnection {
            project: self.matrix(&format!("{prefix}_fn.weight"), MATRIX, [inputs, outputs])?,
            base: self.vector(&format!("{prefix}_base.weight"), outputs)?,
            scale: self.vector(&format!("{prefix}_scale.weight"), scales)?,
        })
    }

    fn compressor(&self, prefix: &str, ratio: usize, dim: usize) -> Result<CompressorTensors, ModelError> {
        let width = self.config.compressor_width(ratio, dim);
        let shape = [self.config.n_embd, width];
        Ok(CompressorTensors {
            kv: self.matrix(&format!("{prefix}_kv.weight"), MATRIX, shape)?,
            gate: self.matrix(&format!("{prefix}_gate.weight"), MATRIX, shape)?,
            ape: self.decoded(&format!("{prefix}_ape.weight"), &[width, ratio])?,
            norm: self.vector(&format!("{prefix}_norm.weight"), dim)?,
        })
    }

    fn matrix(&self, name: &str, types: &[TensorType], [cols, rows]: [usize; 2]) -> Result<Tensor, ModelError> {
        let (index, info) = self.find(name, types, &[cols, rows])?;
        Ok(Tensor { ty: info.ty, cols, rows, slabs: 1, index })
    }

    fn stack(&self, name: &str, [cols, rows, slabs]: [usize; 3]) -> Result<Tensor, ModelError> {
        let (index, info) = self.find(name, EXPERTS, &[cols, rows, slabs])?;
        Ok(Tensor { ty: info.ty, cols, rows, slabs, index })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        self.decoded(name, &[len])
    }

    /// A small tensor, decoded to float32.
    fn decoded(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (_, info) = self.find(name, VECTOR, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        quant::dequantize_row(info.ty, self.gguf.data(info), &mut values);
        Ok(values)
    }

    /// The hash-routing table, every expert id in range.
    fn token_table(&self, name: &str) -> Result<Tensor, ModelError> {
        let (cols, rows) = (self.config.n_expert_used, self.config.n_vocab);
        let (index, info) = self.find(name, &[TensorType::I32], &[cols, rows])?;
        let n_expert = self.config.n_expert as i32;
        let ids = self.gguf.data(info).chunks_exact(4).map(|id| i32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        if let Some((entry, found)) = ids.enumerate().find(|(_, id)| !(0..n_expert).contains(id)) {
            return Err(ModelError::ExpertId {
                file: self.gguf.name().to_owned(),
                name: name.to_owned(),
                index: entry,
                offset: info.offset + 4 * entry as u64,
                found,
                last: self.config.n_expert - 1,
            });
        }
        Ok(Tensor { ty: info.ty, cols, rows, slabs: 1, index })
    }

    /// The tensor of this name, if it has one of the types and the shape. Trailing dimensions of 1 do not matter.
    fn find(&self, name: &str, types: &[TensorType], shape: &[usize]) -> Result<(usize, &TensorInfo), ModelError> {
        let file = || self.gguf.name().to_owned();
        let Some(&index) = self.by_name.get(name) else {
            return Err(ModelError::MissingTensor { file: file(), name: name.to_owned(), layers: self.config.n_layer });
        };
        let info = &self.gguf.tensors()[index];
        let mut expected = [1u64; 4];
        expected.iter_mut().zip(shape).for_each(|(e, s)| *e = *s as u64);
        if info.ne != expected {
            return Err(ModelError::Shape {
                file: file(),
                name: name.to_owned(),
                offset: info.offset,
                found: info.dims().to_vec(),
                expected: expected[..shape.len()].to_vec(),
            });
        }
        if !types.contains(&info.ty) {
            return Err(ModelError::Type {
                file: file(),
                name: name.to_owned(),
                offset: info.offset,
                found: info.ty.to_string(),
                expected: types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", "),
            });
        }
        Ok((index, info))
    }
}
