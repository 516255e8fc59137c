//! Hyper-connections and the output head.

use ds4_model::Sublayer;

use super::executor::Executor;
use super::linear::Linear;
use super::linear_one::{One, Source};
use super::workspace::{Activations, HYPER_SLICE};
use crate::device::DeviceError;
use crate::params;
use crate::tensors::DeviceHyper;

/// What is merged into the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    Nothing,
    /// The sublayer's output.
    Output,
    /// The experts' outputs, not added yet.
    Parts,
}

impl Executor {
    /// Mixes the streams before a sublayer, after merging the output of the sublayer before.
    pub(super) fn hyper_mix(&self, layer: usize, sublayer: Sublayer, merged: Merged) -> Result<(), DeviceError> {
        let (connection, norm) = self.connection(layer, sublayer);
        let rows = self.batch.rows;
        self.project(Some(connection), merged, rows, 0)?;
        self.finish(connection, norm, rows, 0, &self.work.input)
    }

    /// The hyper-connection before a sublayer, and the sublayer's norm.
    fn connection(&self, layer: usize, sublayer: Sublayer) -> (&DeviceHyper, u64) {
        let tensors = &self.tensors.layers[layer];
        match sublayer {
            Sublayer::Attention => (&tensors.hc_attn, tensors.attn_norm),
            Sublayer::Experts => (&tensors.hc_ffn, tensors.ffn_norm),
        }
    }

    /// As [`hyper_mix`](Self::hyper_mix), but for the sublayer's input, which the products make that take it.
    pub(super) fn hyper_project(
        &self,
        layer: usize,
        sublayer: Sublayer,
        merged: Merged,
    ) -> Result<params::HyperFinish, DeviceError> {
        let (connection, norm) = self.connection(layer, sublayer);
        self.project(Some(connection), merged, 1, 0)?;
        Ok(self.finish_params(connection, norm, 0, &self.work.input))
    }

    /// Merges without mixing.
    pub(super) fn hyper_merge(&self, merged: Merged) -> Result<(), DeviceError> {
        self.project(None, merged, self.batch.rows, 0)
    }

    fn makes_forms(&self) -> bool {
        super::is_int8(self.numerics.compute)
    }

    /// Whether the kernels for several rows between two barriers do it: they have no list of rows.
    fn is_large(rows: usize, row_list: u64) -> bool {
        rows > 64 && row_list == 0
    }

    fn project(
        &self,
        connection: Option<&DeviceHyper>,
        merged: Merged,
        rows: usize,
        row_list: u64,
    ) -> Result<(), DeviceError> {
        let config = self.model.config();
        // Large batches load a slice of the projection once for more rows.
        let rows_per_block = match rows {
            0..=4 => 1,
            5..=16 => 2,
            17..=64 => 4,
            _ => 32,
        };
        let in_parts = merged == Merged::Parts;
        let project = params::HyperProject {
            streams: self.work.streams.address(),
            output: if in_parts { self.work.down.address() } else { self.work.output.address() },
            post: self.work.post.address(),
            comb: self.work.comb.address(),
            project: connection.map_or(0, |c| c.project),
            sums: self.work.hyper_sums.address(),
            row_list,
            n_embd: config.n_embd as u32,
            outputs: connection.map_or(0, |c| c.outputs),
            rows: rows as u32,
            half_weights: connection.map_or(0, |c| u32::from(c.half)),
            merge: u32::from(merged != Merged::Nothing),
            project_too: u32::from(connection.is_some()),
            rows_per_block: rows_per_block as u32,
            slots: if in_parts { self.slots() as u32 } else { 1 },
        };
        let grid = [(config.n_embd / HYPER_SLICE) as u32, rows.div_ceil(rows_per_block) as u32, 1];
        let kernel = if Self::is_large(rows, row_list) { "hc_project_large" } else { "hc_project" };
        self.launch(kernel, grid, 256, &project)
    }

    fn finish_params(
        &self,
        connection: &DeviceHyper,
        norm: u64,
        row_list: u64,
        x: &Activations,
    ) -> params::HyperFinish {
        let config = self.model.config();
        let head = row_list != 0;
        params::HyperFinish {
            streams: self.work.streams.address(),
            sums: self.work.hyper_sums.address(),
            base: connection.base,
            scale: connection.scale,
            norm,
            post: self.work.post.address(),
            comb: self.work.comb.address(),
            row_list,
            x: x.params,
            n_embd: config.n_embd as u32,
            slices: (config.n_embd / HYPER_SLICE) as u32,
            iterations: config.sinkhorn_iterations as u32,
            head: u32::from(head),
            eps: config.eps,
            hc_eps: config.hc_eps,
            integers: u32::from(self.makes_forms()),
            halves: u32::from(self.makes_forms()),
        }
    }

    fn finish(
        &self,
        connection: &DeviceHyper,
        norm: u64,
        rows: usize,
        row_list: u64,
        x: &Activations,
    ) -> Result<(), DeviceError> {
        let finish = self.finish_params(connection, norm, row_list, x);
        x.set_forms(self.makes_forms(), self.makes_forms());
        if Self::is_large(rows, row_list) {
            self.launch("hc_weights", [rows as u32, 1, 1], 32, &finish)?;
            return self.launch("hc_input_large", [rows as u32, 1, 1], 256, &finish);
        }
        // Small batches have more blocks per row than large ones.
        let blocks = x.params.blocks.min(if rows <= 64 { 32 } else { 4 });
        self.launch("hc_finish", [rows as u32, blocks + u32::from(row_list == 0), 1], 256, &finish)
    }

    /// Logits of the wanted rows.
    pub(super) fn output_head(&self) -> Result<(), DeviceError> {
        let rows = self.batch.wanted.len();
        if rows == 0 {
            return Ok(());
        }
        let list = self.work.wanted.address();
        self.project(Some(&self.tensors.output_hc), Merged::Nothing, rows, list)?;
        let logits = Linear::new(self.tensors.output, self.head.logits.address());
        let input = &self.head.input;
        if rows == 1 && self.is_fast(&logits.weight) && self.one_fits(input, &[logits]) {
            let finish = self.finish_params(&self.tensors.output_hc, self.tensors.output_norm, list, input);
            input.set_forms(self.makes_forms(), self.makes_forms());
            let one = One { source: Source::Streamed(finish), ..One::default() };
            return self.one_products(input, &[logits], one);
        }
        self.finish(&self.tensors.output_hc, self.tensors.output_norm, rows, list, &self.head.input)?;
        self.products(&self.head.input, rows, &[logits])
    }
}
