//! Each role's tensor on the card.

use ds4_model::model::{CompressorTensors, HyperConnection};
use ds4_model::{LayerTensors, Model, Routing, Tensor};

use crate::error::WgpuError;
use crate::recorder::View;
use crate::weights::{Loader, Weight};

/// A hyper-connection: the projection in float32; bias and scales are places among the vectors.
pub(crate) struct HyperTensors {
    pub project: View,
    pub base: u32,
    pub scale: u32,
}

/// A compressor.
pub(crate) struct Compressor {
    pub kv: Weight,
    pub gate: Weight,
    pub ape: u32,
    pub norm: u32,
}

/// An indexer.
pub(crate) struct Indexer {
    pub q_b: Weight,
    pub weights: Weight,
    pub compressor: Compressor,
}

/// How experts are chosen.
pub(crate) enum Choice {
    /// By a table of tokens.
    Table(View),
    /// By score and bias.
    Bias(u32),
}

/// A layer.
pub(crate) struct Layer {
    pub hc_attn: HyperTensors,
    pub hc_ffn: HyperTensors,
    pub attn_norm: u32,
    pub ffn_norm: u32,
    pub q_a: Weight,
    pub q_a_norm: u32,
    pub q_b: Weight,
    pub kv: Weight,
    pub kv_norm: u32,
    pub sinks: u32,
    pub out_a: Weight,
    pub out_b: Weight,
    pub compressor: Option<Compressor>,
    pub indexer: Option<Indexer>,
    pub router: Weight,
    pub choice: Choice,
    pub gate_exps: Weight,
    pub up_exps: Weight,
    pub down_exps: Weight,
    pub gate_shexp: Weight,
    pub up_shexp: Weight,
    pub down_shexp: Weight,
}

/// All of them.
pub(crate) struct Tensors {
    pub embedding: Weight,
    pub output: Weight,
    pub output_norm: u32,
    pub output_hc: HyperTensors,
    pub layers: Vec<Layer>,
    /// Every small vector.
    pub vectors: View,
    /// The magnitudes of IQ2_XXS: eight bytes for each index.
    pub grid: View,
}

impl Tensors {
    pub fn load(model: &Model, mut loader: Loader<'_>) -> Result<Self, WgpuError> {
        let grid = loader.values(ds4_gguf::quant::iq2_xxs_grid::GRID.as_flattened())?;
        let embedding = loader.weight(&model.token_embd)?;
        let output = loader.weight(&model.output)?;
        let output_norm = loader.vector(&model.output_norm);
        let output_hc = hyper(&mut loader, model, &model.output_hc)?;
        if loader.shares() {
            // Layers that share some of their tensors and not others still find all of them in one buffer.
            let all: Vec<&Tensor> = model.layers.iter().flat_map(matrices).collect();
            loader.reserve(&all)?;
        }
        let layers = model.layers.iter().map(|t| layer(&mut loader, model, t)).collect::<Result<_, _>>()?;
        let vectors = loader.finish()?;
        Ok(Self { embedding, output, output_norm, output_hc, layers, vectors, grid })
    }
}

fn hyper(loader: &mut Loader<'_>, model: &Model, h: &HyperConnection) -> Result<HyperTensors, WgpuError> {
    let project = decoded(model, &h.project);
    Ok(HyperTensors {
        project: loader.values(bytemuck::cast_slice(&project))?,
        base: loader.vector(&h.base),
        scale: loader.vector(&h.scale),
    })
}

/// A small matrix in float32.
fn decoded(model: &Model, tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.rows * tensor.cols];
    for (row, out) in values.chunks_exact_mut(tensor.cols).enumerate() {
        model.decode_row(tensor, row, out);
    }
    values
}

fn compressor(loader: &mut Loader<'_>, c: &CompressorTensors) -> Result<Compressor, WgpuError> {
    Ok(Compressor {
        kv: loader.weight(&c.kv)?,
        gate: loader.weight(&c.gate)?,
        ape: loader.vector(&c.ape),
        norm: loader.vector(&c.norm),
    })
}

/// The matrices of a layer, which are used together.
fn matrices(t: &LayerTensors) -> Vec<&Tensor> {
    let mut together = vec![&t.q_a, &t.q_b, &t.kv, &t.out_a, &t.out_b, &t.router];
    together.extend([&t.gate_exps, &t.up_exps, &t.down_exps, &t.gate_shexp, &t.up_shexp, &t.down_shexp]);
    together.extend(t.compressor.iter().flat_map(|c| [&c.kv, &c.gate]));
    together.extend(t.indexer.iter().flat_map(|i| [&i.q_b, &i.weights, &i.compressor.kv, &i.compressor.gate]));
    together
}

fn layer(loader: &mut Loader<'_>, model: &Model, t: &LayerTensors) -> Result<Layer, WgpuError> {
    loader.reserve(&matrices(t))?;
    let indexer = match &t.indexer {
        None => None,
        Some(indexer) => Some(Indexer {
            q_b: loader.weight(&indexer.q_b)?,
            weights: loader.weight(&indexer.weights)?,
            compressor: compressor(loader, &indexer.compressor)?,
        }),
    };
    Ok(Layer {
        hc_attn: hyper(loader, model, &t.hc_attn)?,
        hc_ffn: hyper(loader, model, &t.hc_ffn)?,
        attn_norm: loader.vector(&t.attn_norm),
        ffn_norm: loader.vector(&t.ffn_norm),
        q_a: loader.weight(&t.q_a)?,
        q_a_norm: loader.vector(&t.q_a_norm),
        q_b: loader.weight(&t.q_b)?,
        kv: loader.weight(&t.kv)?,
        kv_norm: loader.vector(&t.kv_norm),
        sinks: loader.vector(&t.sinks),
        out_a: loader.weight(&t.out_a)?,
        out_b: loader.weight(&t.out_b)?,
        compressor: t.compressor.as_ref().map(|c| compressor(loader, c)).transpose()?,
        indexer,
        router: loader.weight(&t.router)?,
        choice: match &t.routing {
            Routing::ByToken(table) => Choice::Table(loader.table(table)?),
            Routing::ByScore(bias) => Choice::Bias(loader.vector(bias)),
        },
        gate_exps: loader.weight(&t.gate_exps)?,
        up_exps: loader.weight(&t.up_exps)?,
        down_exps: loader.weight(&t.down_exps)?,
        gate_shexp: loader.weight(&t.gate_shexp)?,
        up_shexp: loader.weight(&t.up_shexp)?,
        down_shexp: loader.weight(&t.down_shexp)?,
    })
}
