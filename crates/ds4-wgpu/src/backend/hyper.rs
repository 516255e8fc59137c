//! Embedding, hyper-connections, and the head.

use ds4_model::Sublayer;

use super::products::{self, Setting, Target, takes_int8};
use super::{WgpuBackend, params};
use crate::cache::lock;
use crate::error::WgpuError;
use crate::recorder::View;
use crate::shader::{Kernel, SLICE};
use crate::tensors::HyperTensors;

impl WgpuBackend {
    pub(super) fn embed_tokens(&mut self) -> Result<(), WgpuError> {
        let mut context = lock(&self.context);
        let weight = &self.tensors.embedding;
        let kernel = Kernel::Embed(weight.format);
        let units = weight.cols / weight.format.unit() as u32;
        let grid = [units.div_ceil(kernel.workgroup()), self.batch.rows as u32, 1];
        for part in &weight.parts {
            let p =
                params::Embed { base: part.base, row_bytes: weight.row_bytes, first: part.first, count: part.count };
            let mut views = vec![&part.view, &self.work.row_info, &self.work.streams];
            if weight.format == crate::shader::Format::Iq2Xxs {
                views.push(&self.tensors.grid);
            }
            context.recorder.dispatch(kernel, &p, &views, grid)?;
        }
        Ok(())
    }

    pub(super) fn mix_streams(&mut self, layer: usize, sublayer: Sublayer) -> Result<(), WgpuError> {
        let tensors = &self.tensors.layers[layer];
        let (hyper, norm) = match sublayer {
            Sublayer::Attention => (&tensors.hc_attn, tensors.attn_norm),
            Sublayer::Experts => (&tensors.hc_ffn, tensors.ffn_norm),
        };
        let integers = self.int8();
        self.mix(hyper, norm, None, integers)?;
        self.batch.unweighted.set(Some((layer, sublayer)));
        self.work.input.quantized = integers;
        Ok(())
    }

    /// Projection, then input (and, unless this is the head, merging weights). `wanted`: the head's rows.
    fn mix(&self, hyper: &HyperTensors, norm: u32, wanted: Option<&View>, integers: bool) -> Result<(), WgpuError> {
        let config = self.model.config();
        self.make_merge_weights()?;
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let head = wanted.is_some();
        let (input, partial, rows) = match head {
            true => (&self.head.input, &self.head.partial, self.batch.wanted),
            false => (&self.work.input, &self.work.partial, self.batch.rows),
        };
        let list = wanted.unwrap_or(&nothing);
        let slices = config.n_embd.div_ceil(SLICE as usize) as u32;
        let p = params::HcProject { project: 0, indirect: u32::from(head) };
        let merging = !head && self.batch.unmerged.replace(false);
        let (merge, output) = match merging {
            true => (&self.work.merge, &self.work.output),
            false => (&nothing, &nothing),
        };
        let views = [&hyper.project, &self.work.streams, list, partial, merge, output];
        let kernel = Kernel::HcProject { head, merge: merging };
        context.recorder.dispatch(kernel, &p, &views, [slices, rows as u32, 1])?;
        let p = params::HcFinish {
            base: hyper.base,
            scale: hyper.scale,
            norm,
            indirect: u32::from(head),
            eps: config.eps,
            hc_eps: config.hc_eps,
        };
        let merge = &self.work.merge;
        let vectors = &self.tensors.vectors;
        let views = [vectors, &self.work.streams, list, partial, &input.float, &input.codes, &input.scales, merge];
        context.recorder.dispatch(Kernel::HcFinish { head, integers }, &p, &views, [1, rows as u32, 1])
    }

    /// What the merging weights of the sublayer that is running are made from, for a kernel that makes them by the way.
    pub(super) fn hyper_params(&self, layer: usize, sublayer: Sublayer) -> params::Hyper {
        let (config, tensors) = (self.model.config(), &self.tensors.layers[layer]);
        let hyper = match sublayer {
            Sublayer::Attention => &tensors.hc_attn,
            Sublayer::Experts => &tensors.hc_ffn,
        };
        params::Hyper {
            base: hyper.base,
            scale: hyper.scale,
            iterations: config.sinkhorn_iterations as u32,
            eps: config.eps,
            hc_eps: config.hc_eps,
            pad0: 0,
            pad1: 0,
            pad2: 0,
        }
    }

    /// Makes the last sublayer's merging weights, if no other kernel has.
    pub(super) fn make_merge_weights(&self) -> Result<(), WgpuError> {
        let Some((layer, sublayer)) = self.batch.unweighted.take() else { return Ok(()) };
        let p = params::HcWeights { hyper: self.hyper_params(layer, sublayer) };
        let views = [&self.tensors.vectors, &self.work.merge];
        lock(&self.context).recorder.dispatch(Kernel::HcWeights, &p, &views, [self.batch.rows as u32, 1, 1])
    }

    /// Lets the last sublayer's output enter the streams, if it has not yet. The next sublayer's projection does both at once.
    pub(super) fn merge_streams(&self) -> Result<(), WgpuError> {
        if !self.batch.unmerged.replace(false) {
            return Ok(());
        }
        self.make_merge_weights()?;
        let vectors = self.model.config().n_embd as u32 / 4;
        let grid = [vectors.div_ceil(Kernel::HcMerge.workgroup()), self.batch.rows as u32, 1];
        let views = [&self.work.merge, &self.work.output, &self.work.streams];
        lock(&self.context).recorder.dispatch(Kernel::HcMerge, &params::HcMerge { pad: 0 }, &views, grid)
    }

    pub(super) fn output_head(&mut self) -> Result<(), WgpuError> {
        self.merge_streams()?;
        let weight = &self.tensors.output;
        let integers = takes_int8(self.int8(), weight);
        let wanted = self.head.wanted.clone();
        self.mix(&self.tensors.output_hc, self.tensors.output_norm, Some(&wanted), integers)?;
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let setting = Setting { int8: self.int8(), planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let to = Target::rows(&self.head.logits, weight);
        products::all(&mut context.recorder, setting, &[(weight, to)], &self.head.input, self.batch.wanted)
    }
}
