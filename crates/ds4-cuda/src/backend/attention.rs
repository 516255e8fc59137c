//! Attention: projections, queries, the cache, the indexer's choice, softmax, output.

use super::executor::{Executor, MOST_GRAPH_ROWS, chunk_keys, most_chunks};
use super::linear::Linear;
use super::linear_one::{Into, MOST_NORMED, One, Outcome, Source};
use crate::device::{DeviceError, Memory};
use crate::params;
use crate::tensors::DeviceCompressor;
use crate::weights::Storage;

/// What is made of projected queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadForms {
    /// Norm and rotation, in float32 and in two float16.
    All,
    /// The same in float16 alone.
    Half,
    /// The other forms of queries that are final.
    Others,
}

impl Executor {
    /// Every projection of the attention input.
    /// `streamed`: what their input comes of, if it is still to be made (see [`attends_one`](Self::attends_one)).
    pub(super) fn attention_in(&self, layer: usize, streamed: Option<params::HyperFinish>) -> Result<(), DeviceError> {
        let work = &self.work;
        let list = self.attention_inputs(layer);
        if let Some(finish) = streamed {
            work.input.set_forms(true, true);
            self.one_products(&work.input, &list, One { source: Source::Streamed(finish), ..One::default() })?;
        } else {
            self.products(&work.input, self.batch.rows, &list)?;
        }
        work.latent.changed();
        Ok(())
    }

    fn attention_inputs(&self, layer: usize) -> Vec<Linear> {
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        let mut list = vec![Linear::new(tensors.q_a, work.latent.params.f), Linear::new(tensors.kv, work.kv.address())];
        let features = |list: &mut Vec<Linear>, c: &DeviceCompressor, kv: &Memory, gate: &Memory| {
            list.push(Linear::new(c.kv, kv.address()));
            list.push(Linear::new(c.gate, gate.address()));
        };
        if let Some(c) = &tensors.compressor {
            features(&mut list, c, &work.compressor_kv, &work.compressor_gate);
        }
        if let Some(indexer) = &tensors.indexer {
            features(&mut list, &indexer.compressor, &work.indexer_kv, &work.indexer_gate);
            let scale = ((config.idx_heads * config.idx_dim) as f32).powf(-0.5);
            list.push(Linear { scale, ..Linear::new(indexer.weights, work.indexer_weights.address()) });
        }
        list
    }

    /// Whether a batch of one row has launches that make the input of the streams, and the latent's norm and the cache's entries beside
    /// the queries.
    pub(super) fn attends_one(&self, layer: usize) -> bool {
        let (inputs, queries) = (self.attention_inputs(layer), self.queries(layer, true));
        self.batch.rows == 1
            && inputs.iter().chain(&queries).all(|l| self.is_fast(&l.weight))
            && self.model.config().q_rank <= MOST_NORMED
            && self.one_fits(&self.work.input, &inputs)
            && self.one_fits(&self.work.latent, &queries)
    }

    /// Their projections; `indexer`: the indexer's, too.
    fn queries(&self, layer: usize, indexer: bool) -> Vec<Linear> {
        let tensors = &self.tensors.layers[layer];
        let mut list = vec![Linear::new(tensors.q_b, self.work.query.address())];
        if let (Some(indexer), true) = (&tensors.indexer, indexer) {
            list.push(Linear::new(indexer.q_b, self.work.indexer_query.address()));
        }
        list
    }

    /// For one row: queries, with the latent's norm before them, and the row's entries in the cache, whose end has not to be moved
    /// afterwards.
    pub(super) fn query_and_append(&self, layer: usize) -> Result<(), DeviceError> {
        let tensors = &self.tensors.layers[layer];
        let one = One {
            source: Source::Normed(tensors.q_a_norm),
            cache: Some((self.cache_params(layer, false), self.cache_roles(layer))),
            into: None,
        };
        // Attention may finish the queries itself; the indexer's are not asked for where it does not choose.
        let (raw, selects) = (self.attends_raw(layer), self.selects(layer));
        self.one_products(&self.work.latent, &self.queries(layer, selects), one)?;
        self.finish_heads(layer, !raw, selects, HeadForms::All)
    }

    /// The query latent's norm, queries and the indexer's queries. `attended`: attention comes before anybody looks at them.
    pub(super) fn query(&self, layer: usize, attended: bool) -> Result<(), DeviceError> {
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        let forms = super::is_int8(self.numerics.compute);
        let norm = params::NormQuantize {
            x: work.latent.params,
            weight: tensors.q_a_norm,
            eps: self.model.config().eps,
            integers: u32::from(forms),
            halves: u32::from(self.needs.latent),
            pad: 0,
        };
        self.launch("norm_quantize", [self.batch.rows as u32, 1, 1], 1024, &norm)?;
        work.latent.set_forms(forms, self.needs.latent);
        self.products(&work.latent, self.batch.rows, &self.queries(layer, true))?;
        let forms = if attended && self.attends_by_rows() { HeadForms::Half } else { HeadForms::All };
        self.finish_heads(layer, true, tensors.indexer.is_some(), forms)
    }

    /// The forms of queries that were written from outside.
    pub(super) fn query_heads(&self, layer: usize, attention: bool, indexer: bool) -> Result<(), DeviceError> {
        self.finish_heads(layer, attention, indexer, HeadForms::Others)
    }

    fn finish_heads(&self, layer: usize, attention: bool, indexer: bool, forms: HeadForms) -> Result<(), DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let heads = if attention { config.n_head } else { 0 };
        let index_heads = if indexer { config.idx_heads } else { 0 };
        let query = params::QueryHeads {
            query: work.query.address(),
            hi: work.query_hi.address(),
            lo: if forms == HeadForms::Half { 0 } else { work.query_lo.address() },
            index_query: work.indexer_query.address(),
            index_codes: work.indexer_codes.address(),
            index_scales: work.indexer_scales.address(),
            angles: work.angles.address(),
            heads: heads as u32,
            dim: config.head_dim as u32,
            rope: config.rope_dim as u32,
            index_heads: index_heads as u32,
            index_dim: config.idx_dim as u32,
            pairs: (config.rope_dim / 2) as u32,
            kind: self.kind(layer),
            exact: self.layout.format.exact,
            eps: config.eps,
            forms_only: u32::from(forms == HeadForms::Others),
        };
        let blocks = (heads + index_heads).div_ceil(8) as u32;
        self.launch("query_heads", [blocks, self.batch.rows as u32, 1], 256, &query)
    }

    /// Which rotary frequencies a layer has: 0 without compression, 1 with.
    fn kind(&self, layer: usize) -> u32 {
        u32::from(self.model.config().ratios[layer] != 0)
    }

    fn cache_params(&self, layer: usize, forms_only: bool) -> params::Cache {
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        let compressor = |c: Option<&DeviceCompressor>, kv: &Memory, gate: &Memory, dim: usize| match c {
            None => Self::empty(),
            Some(c) => params::Compressor {
                kv: kv.address(),
                gate: gate.address(),
                ape: c.ape,
                norm: c.norm,
                dim: dim as u32,
                width: c.kv.rows(),
            },
        };
        let ratio = config.ratios[layer];
        params::Cache {
            rows: work.row_info.address(),
            spans: work.spans.address(),
            kv: work.kv.address(),
            kv_stored: work.kv_stored.address(),
            kv_norm: tensors.kv_norm,
            angles: work.angles.address(),
            frequencies: self.tensors.frequencies,
            attention: compressor(
                tensors.compressor.as_ref(),
                &work.compressor_kv,
                &work.compressor_gate,
                config.head_dim,
            ),
            indexer: compressor(
                tensors.indexer.as_ref().map(|indexer| &indexer.compressor),
                &work.indexer_kv,
                &work.indexer_gate,
                config.idx_dim,
            ),
            place: self.layout.layers[layer],
            format: self.layout.format,
            kind: self.kind(layer),
            pairs: (config.rope_dim / 2) as u32,
            has_indexer: u32::from(tensors.indexer.is_some()),
            overlapping: u32::from(config.overlaps(ratio)),
            eps: config.eps,
            forms_only: u32::from(forms_only),
        }
    }

    /// KV rows, then compressed rows, then indexer rows: how many of these a layer has.
    fn cache_roles(&self, layer: usize) -> u32 {
        let tensors = &self.tensors.layers[layer];
        1 + u32::from(tensors.compressor.is_some()) + u32::from(tensors.indexer.is_some())
    }

    /// The batch's KV rows, and every row that its compressors complete.
    pub(super) fn append(&self, layer: usize) -> Result<(), DeviceError> {
        let grid = [self.batch.rows as u32, self.cache_roles(layer), 1];
        self.launch("cache_append", grid, 256, &self.cache_params(layer, false))
    }

    /// Stores KV rows that were written from outside.
    pub(super) fn store_kv(&self) -> Result<(), DeviceError> {
        self.launch("cache_append", [self.batch.rows as u32, 1, 1], 256, &self.cache_params(0, true))
    }

    /// The indexer's choice.
    pub(super) fn select(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let rows = self.batch.rows;
        if !self.selects(layer) {
            return Ok(());
        }
        let stride = self.score_stride();
        let at_once = self.score_rows();
        // A block brings its rows' queries once: in large batches for more keys.
        let even = stride.div_ceil(self.device.multiprocessors() as usize).next_multiple_of(64);
        let together = rows > MOST_GRAPH_ROWS && self.layout.format.exact == 0;
        let keys = if rows == 1 {
            even.min(1024)
        } else if rows <= MOST_GRAPH_ROWS {
            256
        } else if together {
            2048
        } else {
            1024
        };
        for first in (0..rows).step_by(at_once) {
            let n = at_once.min(rows - first) as u32;
            let index = params::Index {
                rows: work.row_info.address(),
                spans: work.spans.address(),
                codes: work.indexer_codes.address(),
                code_scales: work.indexer_scales.address(),
                query: work.indexer_query.address(),
                head_weights: work.indexer_weights.address(),
                scores: self.scratch.scores.address(),
                selection: work.selection.address(),
                selected: work.selected.address(),
                place: self.layout.layers[layer],
                format: self.layout.format,
                heads: config.idx_heads as u32,
                dim: config.idx_dim as u32,
                top_k: config.idx_topk as u32,
                first_row: first as u32,
                score_stride: stride as u32,
                keys: keys as u32,
                count: n,
                pad: 0,
            };
            let blocks = stride.div_ceil(keys) as u32;
            if together {
                self.launch("index_scores_rows", [blocks, n.div_ceil(SCORED_TOGETHER), 1], 256, &index)?;
            } else {
                self.launch("index_scores", [blocks, n, 1], 256, &index)?;
            }
            self.launch("index_top", [n, 1, 1], 1024, &index)?;
        }
        Ok(())
    }

    /// Whether the indexer chooses in this batch. Where it does not, every row attends to all that it sees.
    pub(super) fn selects(&self, layer: usize) -> bool {
        let config = self.model.config();
        self.tensors.layers[layer].indexer.is_some() && self.batch.reach / config.ratios[layer] > config.idx_topk
    }

    /// Attention; then the batch's rows enter rings and frontiers, unless they are `stored` already. `projected`: the output projection comes
    /// before anybody looks at the result.
    pub(super) fn attend(&self, layer: usize, stored: bool, projected: bool) -> Result<(), DeviceError> {
        let config = self.model.config();
        let work = &self.work;
        let rows = self.batch.rows as u32;
        let exact = self.layout.format.exact != 0;
        let chunks = most_chunks(config, self.numerics, self.batch.rows, self.batch.reach);
        let attend = params::Attend {
            rows: work.row_info.address(),
            spans: work.spans.address(),
            hi: work.query_hi.address(),
            lo: work.query_lo.address(),
            kv_stored: work.kv_stored.address(),
            selection: work.selection.address(),
            selected: work.selected.address(),
            sinks: self.tensors.layers[layer].sinks,
            angles: work.angles.address(),
            attended: work.attended.params.f,
            part_max: self.scratch.part_max.address(),
            part_sum: self.scratch.part_sum.address(),
            part_out: self.scratch.part_out.address(),
            place: self.layout.layers[layer],
            format: self.layout.format,
            heads: config.n_head as u32,
            pairs: (config.rope_dim / 2) as u32,
            kind: self.kind(layer),
            top_k: config.idx_topk as u32,
            most_chunks: chunks.unwrap_or(0) as u32,
            split: u32::from(chunks.is_some()),
            scale: (config.head_dim as f32).powf(-0.5),
            selects: u32::from(self.selects(layer)),
        };
        if stored && self.attends_raw(layer) {
            self.attend_one(layer, attend)?;
        } else if self.attends_by_rows() {
            self.attend_rows(layer, attend, projected)?;
        } else {
            let kernel = if exact { "attend_exact" } else { "attend_packed" };
            let head_tiles = config.n_head.div_ceil(16) as u32;
            // Blocks of chunks that a layer of this ratio cannot have are not started.
            let here = chunks.map(|_| self.chunks_of(layer) as u32);
            let grid = [here.unwrap_or(1), head_tiles, rows];
            self.launch_with(kernel, grid, 256, ATTEND_MEMORY, &attend)?;
            if here.is_some() {
                self.launch("attend_merge", [config.n_head as u32, rows, 1], 256, &attend)?;
            }
            work.attended.changed();
        }
        if stored {
            return Ok(());
        }
        let grid = [rows, self.cache_roles(layer), 1];
        self.launch("cache_commit", grid, 256, &self.cache_params(layer, false))
    }

    /// Whether the attention of one row takes queries as they come from their projection.
    fn attends_raw(&self, layer: usize) -> bool {
        self.layout.format.exact == 0
            && matches!(self.layout.format.dim, 128 | 512)
            && self.layout.format.kv_stride <= MOST_RAW_ROW
            && self.chunks_of(layer) <= MOST_MERGED
            && self.device.shared_memory_limit() >= ATTEND_ONE_MEMORY as usize + (1 << 10)
    }

    fn attend_one(&self, layer: usize, attend: params::Attend) -> Result<(), DeviceError> {
        let config = self.model.config();
        let one = params::AttendOne { attend, query: self.work.query.address(), eps: config.eps, pad: 0 };
        let grid = [self.chunks_of(layer) as u32, config.n_head.div_ceil(16) as u32, 1];
        let kernel = if config.head_dim == 512 { "attend_one_512" } else { "attend_one_128" };
        self.launch_with(kernel, grid, 512, ATTEND_ONE_MEMORY, &one)?;
        let grid = [config.n_head as u32, config.head_dim.div_ceil(256) as u32, 1];
        self.launch("attend_merge_one", grid, 128, &attend)?;
        self.work.attended.changed();
        Ok(())
    }

    /// Whether the kernel does it that decodes a row's keys once for 64 heads: for large batches and packed rows of some sizes, on cards
    /// that give a block the shared memory.
    fn attends_by_rows(&self) -> bool {
        let format = &self.layout.format;
        let chunks = most_chunks(self.model.config(), self.numerics, self.batch.rows, self.batch.reach);
        chunks.is_none()
            && format.exact == 0
            && matches!(format.dim, 128 | 512)
            && format.rope.is_multiple_of(32)
            && self.device.shared_memory_limit() >= ATTEND_ROWS_MEMORY as usize
    }

    fn attend_rows(&self, layer: usize, mut attend: params::Attend, projected: bool) -> Result<(), DeviceError> {
        let config = self.model.config();
        let attended = &self.work.attended;
        let integers = super::is_int8(self.numerics.compute);
        let halves = integers && self.tensors.layers[layer].out_a.storage == Storage::F16;
        if projected && self.is_fast(&self.tensors.layers[layer].out_a) {
            attend.attended = 0;
        }
        let rows = params::AttendRows {
            attend,
            out: attended.params,
            integers: u32::from(integers),
            halves: u32::from(halves),
        };
        let kernel = if config.head_dim == 512 { "attend_rows_512" } else { "attend_rows_128" };
        let grid = [self.batch.rows as u32, config.n_head.div_ceil(64) as u32, 1];
        self.launch_with(kernel, grid, 512, ATTEND_ROWS_MEMORY, &rows)?;
        attended.set_forms(integers, halves);
        Ok(())
    }

    /// Most chunks of any row in this layer.
    fn chunks_of(&self, layer: usize) -> usize {
        let config = self.model.config();
        let ratio = config.ratios[layer];
        let visible = self.batch.reach.checked_div(ratio).unwrap_or(0);
        let compressed = if config.has_indexer(ratio) { visible.min(config.idx_topk) } else { visible };
        (config.window.min(self.batch.reach) + compressed).div_ceil(chunk_keys(self.numerics.kv))
    }

    /// Grouped low-rank output.
    pub(super) fn attention_out(&self, layer: usize) -> Result<(), DeviceError> {
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        let work = &self.work;
        let low = Linear {
            groups: config.o_groups,
            group_rows: config.o_rank,
            ..Linear::new(tensors.out_a, work.low.params.f)
        };
        let fast = self.is_fast(&tensors.out_a) && self.is_fast(&tensors.out_b);
        if self.batch.rows == 1 && fast && self.one_fits(&work.attended, &[low]) {
            let halves = Self::has_halves(&tensors.out_b);
            let into = Some(Into { rows: work.low.params, row: 0, limit: 0.0, halves });
            let low = Linear { outcome: Outcome::Forms, ..low };
            self.one_products(&work.attended, &[low], One { into, ..One::default() })?;
            work.low.set_forms(true, halves);
        } else {
            self.products(&work.attended, self.batch.rows, &[low])?;
            work.low.changed();
        }
        self.products(&work.low, self.batch.rows, &[Linear::new(tensors.out_b, work.output.address())])
    }
}

/// Batch rows that a block of `index_scores_rows` has.
const SCORED_TOGETHER: u32 = 8;
/// Bytes of dynamic shared memory of the attention kernels: the larger one of `AttendMemory`'s two sizes.
const ATTEND_MEMORY: u32 = 88 << 10;
/// Of `attend_one` (`OneMemory`), the most bytes of a stored row, and the most chunks that its merging takes.
const ATTEND_ONE_MEMORY: u32 = 142_592;
const MOST_RAW_ROW: u32 = 592;
const MOST_MERGED: usize = 32;
/// Of the kernels that attend with 64 heads at a time (`RowMemory`).
const ATTEND_ROWS_MEMORY: u32 = 190 << 10;
