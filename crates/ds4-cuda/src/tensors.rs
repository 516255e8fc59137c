//! The model's tensors on the device.

use std::sync::Arc;

use ds4_model::model::{CompressorTensors, HyperConnection};
use ds4_model::{LayerTensors, Model, Routing, Tensor};

use crate::device::{Device, DeviceError, Memory};
use crate::weights::{DeviceWeight, Loader, Storage};

/// A hyper-connection's parameters; the projection is row-major, float16 or float32.
pub(crate) struct DeviceHyper {
    pub project: u64,
    pub half: bool,
    pub base: u64,
    pub scale: u64,
    pub outputs: u32,
}

pub(crate) struct DeviceCompressor {
    pub kv: DeviceWeight,
    pub gate: DeviceWeight,
    pub ape: u64,
    pub norm: u64,
}

pub(crate) struct DeviceIndexer {
    pub q_b: DeviceWeight,
    pub weights: DeviceWeight,
    pub compressor: DeviceCompressor,
}

pub(crate) struct DeviceLayer {
    pub hc_attn: DeviceHyper,
    pub hc_ffn: DeviceHyper,
    pub attn_norm: u64,
    pub ffn_norm: u64,
    pub q_a: DeviceWeight,
    pub q_a_norm: u64,
    pub q_b: DeviceWeight,
    pub kv: DeviceWeight,
    pub kv_norm: u64,
    pub sinks: u64,
    pub out_a: DeviceWeight,
    pub out_b: DeviceWeight,
    pub compressor: Option<DeviceCompressor>,
    pub indexer: Option<DeviceIndexer>,
    pub router: DeviceWeight,
    /// Bias of the choice, or 0.
    pub bias: u64,
    /// Experts by token, or 0.
    pub table: u64,
    pub gate_exps: DeviceWeight,
    pub up_exps: DeviceWeight,
    pub down_exps: DeviceWeight,
    pub gate_shexp: DeviceWeight,
    pub up_shexp: DeviceWeight,
    pub down_shexp: DeviceWeight,
}

pub(crate) struct DeviceTensors {
    pub embedding: u64,
    pub embedding_storage: Storage,
    pub output: DeviceWeight,
    pub output_norm: u64,
    pub output_hc: DeviceHyper,
    pub layers: Vec<DeviceLayer>,
    /// Rotary frequencies of layers without and with compression.
    pub frequencies: u64,
    /// What all of it lies in.
    _memory: Vec<Memory>,
}

impl DeviceTensors {
    pub fn load(
        device: &Arc<dyn Device>,
        model: &Model,
        share: bool,
        frequencies: &[f32],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, DeviceError> {
        let mut loader = Loader::new(device, model, share, progress)?;
        let frequencies = loader.values(frequencies)?;
        let embedding = loader.raw(&model.token_embd)?;
        let output = loader.weight(&model.output)?;
        let output_norm = loader.values(&model.output_norm)?;
        let output_hc = hyper(&mut loader, model, &model.output_hc)?;
        let layers = model.layers.iter().map(|t| layer(&mut loader, model, t)).collect::<Result<_, _>>()?;
        let embedding_storage = Storage::of(model.token_embd.ty);
        let _memory = loader.finish()?;
        Ok(Self { embedding, embedding_storage, output, output_norm, output_hc, layers, frequencies, _memory })
    }
}

fn hyper(loader: &mut Loader<'_>, model: &Model, h: &HyperConnection) -> Result<DeviceHyper, DeviceError> {
    let half = Storage::of(h.project.ty) == Storage::F16;
    let project = if half { loader.raw(&h.project)? } else { loader.values(&decoded(model, &h.project))? };
    Ok(DeviceHyper {
        project,
        half,
        base: loader.values(&h.base)?,
        scale: loader.values(&h.scale)?,
        outputs: h.project.rows as u32,
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

fn compressor(loader: &mut Loader<'_>, c: &CompressorTensors) -> Result<DeviceCompressor, DeviceError> {
    Ok(DeviceCompressor {
        kv: loader.weight(&c.kv)?,
        gate: loader.weight(&c.gate)?,
        ape: loader.values(&c.ape)?,
        norm: loader.values(&c.norm)?,
    })
}

fn layer(loader: &mut Loader<'_>, model: &Model, t: &LayerTensors) -> Result<DeviceLayer, DeviceError> {
    let (bias, table) = match &t.routing {
        Routing::ByScore(bias) => (loader.values(bias)?, 0),
        Routing::ByToken(table) => (0, loader.raw(table)?),
    };
    Ok(DeviceLayer {
        hc_attn: hyper(loader, model, &t.hc_attn)?,
        hc_ffn: hyper(loader, model, &t.hc_ffn)?,
        attn_norm: loader.values(&t.attn_norm)?,
        ffn_norm: loader.values(&t.ffn_norm)?,
        q_a: loader.weight(&t.q_a)?,
        q_a_norm: loader.values(&t.q_a_norm)?,
        q_b: loader.weight(&t.q_b)?,
        kv: loader.weight(&t.kv)?,
        kv_norm: loader.values(&t.kv_norm)?,
        sinks: loader.values(&t.sinks)?,
        out_a: loader.weight(&t.out_a)?,
        out_b: loader.weight(&t.out_b)?,
        compressor: t.compressor.as_ref().map(|c| compressor(loader, c)).transpose()?,
        indexer: match &t.indexer {
            None => None,
            Some(indexer) => Some(DeviceIndexer {
                q_b: loader.weight(&indexer.q_b)?,
                weights: loader.weight(&indexer.weights)?,
                compressor: compressor(loader, &indexer.compressor)?,
            }),
        },
        router: loader.weight(&t.router)?,
        bias,
        table,
        gate_exps: loader.weight(&t.gate_exps)?,
        up_exps: loader.weight(&t.up_exps)?,
        down_exps: loader.weight(&t.down_exps)?,
        gate_shexp: loader.weight(&t.gate_shexp)?,
        up_shexp: loader.weight(&t.up_shexp)?,
        down_shexp: loader.weight(&t.down_shexp)?,
    })
}
