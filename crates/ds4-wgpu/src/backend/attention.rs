//! Attention: projections, queries, the cache, the indexer's choice, softmax, output.

use ds4_model::Sublayer;

use super::products::{self, Setting, Target, takes_int8};
use super::workspace::{chunks, ensure, part_floats};
use super::{WgpuBackend, is_exact, params};
use crate::cache::lock;
use crate::error::WgpuError;
use crate::recorder::View;
use crate::shader::{ATTEND_HEADS, Kernel, Role, SCORED_ROWS};
use crate::tensors::Compressor;
use crate::weights::Weight;

/// Bytes of indexer scores, and of attention results of chunks, that are held at a time; more rows take turns.
const SCORE_BYTES: usize = 64 << 20;
const PART_BYTES: usize = 128 << 20;
/// Indexer scores of a row have room for a multiple of this number.
const SCORE_STEP: usize = 1024;

impl WgpuBackend {
    /// Every projection of the attention input.
    pub(super) fn attention_in(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let int8 = self.int8();
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let setting = Setting { int8, planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let work = &mut self.work;
        let mut list: Vec<(&Weight, &View, f32)> =
            vec![(&tensors.q_a, &work.latent.float, 1.0), (&tensors.kv, &work.kv, 1.0)];
        if let Some(c) = &tensors.compressor {
            list.extend([(&c.kv, &work.compressor_kv, 1.0), (&c.gate, &work.compressor_gate, 1.0)]);
        }
        if let Some(indexer) = &tensors.indexer {
            let c = &indexer.compressor;
            list.extend([(&c.kv, &work.indexer_kv, 1.0), (&c.gate, &work.indexer_gate, 1.0)]);
            let scale = ((config.idx_heads * config.idx_dim) as f32).powf(-0.5);
            list.push((&indexer.weights, &work.indexer_weights, scale));
        }
        if list.iter().any(|(weight, ..)| takes_int8(int8, weight)) {
            products::quantize(&mut context.recorder, &mut work.input, self.batch.rows)?;
        }
        let list: Vec<_> =
            list.into_iter().map(|(weight, y, scale)| (weight, Target { scale, ..Target::rows(y, weight) })).collect();
        products::all(&mut context.recorder, setting, &list, &work.input, self.batch.rows)?;
        work.latent.quantized = false;
        (self.batch.kv_is_ahead, self.batch.kv_is_stored) = (false, false);
        Ok(())
    }

    /// The query latent's norm, queries, and the indexer's queries.
    pub(super) fn queries(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let (int8, rows) = (self.int8(), self.batch.rows);
        let (kind, kinds) = (self.kind(layer), self.kinds());
        let hyper = self.hyper_params(layer, Sublayer::Attention);
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let recorder = &mut context.recorder;
        let setting = Setting { int8, planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let work = &mut self.work;
        let indexer_takes = tensors.indexer.as_ref().is_some_and(|indexer| takes_int8(int8, &indexer.q_b));
        let integers = takes_int8(int8, &tensors.q_b) || indexer_takes;
        let latent = &mut work.latent;
        let (codes, scales) = if integers { (&latent.codes, &latent.scales) } else { (&nothing, &nothing) };
        let p = params::Latents {
            norm: tensors.kv_norm,
            kind,
            kinds,
            eps: config.eps,
            latent_norm: tensors.q_a_norm,
            quads: config.q_rank as u32 / 4,
            pad0: 0,
            pad1: 0,
            hyper,
        };
        let (vectors, stored) = (&self.tensors.vectors, &work.kv_stored);
        let views = [vectors, &work.angles, &work.kv, stored, &latent.float, codes, scales, &work.merge];
        recorder.dispatch(Kernel::Latents { integers }, &p, &views, [3, rows as u32, 1])?;
        self.batch.unweighted.set(None);
        latent.quantized = integers;
        // The KV row does not need to wait for `append_rows`.
        (self.batch.kv_is_ahead, self.batch.kv_is_stored) = (true, true);
        let mut list = vec![(&tensors.q_b, Target::rows(&work.query, &tensors.q_b))];
        if let Some(indexer) = &tensors.indexer {
            list.push((&indexer.q_b, Target::rows(&work.indexer_query, &indexer.q_b)));
        }
        products::all(recorder, setting, &list, &work.latent, rows)?;
        // `append_rows` ends them, with what else can be done then, or whoever reads them before.
        self.batch.unfinished.set(Some(layer));
        self.batch.has_codes = tensors.indexer.is_some();
        Ok(())
    }

    /// Norm and rotation of queries, if they have still to be made. `store`: the batch's rows enter their slots as well.
    pub(super) fn finish_queries(&self, store: bool) -> Result<(), WgpuError> {
        let Some(layer) = self.batch.unfinished.take() else { return Ok(()) };
        let (config, place, work) = (self.model.config(), self.layout.layers[layer], &self.work);
        let (first, second) = self.compressors(layer);
        let kernel = Kernel::Queries { store: store.then_some(place.ratio) };
        let blocks = |c: params::Compressor| c.dim.div_ceil(kernel.workgroup());
        let index_heads = if self.tensors.layers[layer].indexer.is_some() { config.idx_heads as u32 } else { 0 };
        let p = params::Queries {
            kind: self.kind(layer),
            kinds: self.kinds(),
            eps: config.eps,
            scales_at: work.indexer_scales_at(),
            index_heads,
            kv_stored: (work.kv_stored.offset / 4) as u32,
            slot_words: place.slot,
            window: config.window as u32,
            blocks: blocks(first),
            pad0: 0,
            pad1: 0,
            pad2: 0,
            first,
            second,
        };
        let mut context = lock(&self.context);
        let (slots, projected) = (context.slots(layer), work.projected());
        let (vectors, codes) = (&self.tensors.vectors, View::all(work.indexer_codes.buffer.clone()));
        let views =
            [&work.angles, &work.query, &work.indexer_query, &codes, vectors, &work.row_info, &projected, &slots];
        let stored = if store { 1 + blocks(first) + blocks(second) } else { 0 };
        let grid = [config.n_head as u32 + index_heads + stored, self.batch.rows as u32, 1];
        context.recorder.dispatch(kernel, &p, &views, grid)?;
        self.batch.is_stored.set(store);
        Ok(())
    }

    /// What kernels need to know about a layer's compressors; of those that it lacks, that they have no channels.
    fn compressors(&self, layer: usize) -> (params::Compressor, params::Compressor) {
        let tensors = &self.tensors.layers[layer];
        let none: params::Compressor = bytemuck::Zeroable::zeroed();
        let compressor = |role, c: Option<&Compressor>| c.map_or(none, |c| self.compressor(layer, role, c));
        (
            compressor(Role::Attention, tensors.compressor.as_ref()),
            compressor(Role::Indexer, tensors.indexer.as_ref().map(|indexer| &indexer.compressor)),
        )
    }

    /// Codes of indexer queries that are final.
    fn encode_index_queries(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let work = &self.work;
        let (kind, kinds, scales_at) = (self.kind(layer), self.kinds(), work.indexer_scales_at());
        let p = params::IndexQuery { kind, kinds, scales_at };
        let codes = View::all(work.indexer_codes.buffer.clone());
        let views = [&work.angles, &work.indexer_query, &codes];
        let grid = [config.idx_heads as u32, self.batch.rows as u32, 1];
        lock(&self.context).recorder.dispatch(Kernel::IndexQuery, &p, &views, grid)?;
        self.batch.has_codes = true;
        Ok(())
    }

    /// The batch's KV rows, and every row that its compressors complete.
    pub(super) fn append_rows(&mut self, layer: usize) -> Result<(), WgpuError> {
        if !std::mem::take(&mut self.batch.kv_is_ahead) {
            self.store_kv(layer, false)?;
        }
        let config = self.model.config();
        let tensors = &self.tensors.layers[layer];
        if let Some(c) = &tensors.compressor {
            self.compress(layer, Role::Attention, c)?;
        }
        if let Some(indexer) = &tensors.indexer {
            debug_assert!(config.has_indexer(config.ratios[layer]));
            self.compress(layer, Role::Indexer, &indexer.compressor)?;
        }
        // The only row of a sequence does not see what it replaces in the window ring.
        self.finish_queries(self.batch.spans == self.batch.rows)
    }

    /// What kernels need to know about a compressor.
    fn compressor(&self, layer: usize, role: Role, c: &Compressor) -> params::Compressor {
        let (config, work, place) = (self.model.config(), &self.work, self.layout.layers[layer]);
        let (dim, frontier, kv, gate) = match role {
            Role::Attention => (config.head_dim, place.frontier, &work.compressor_kv, &work.compressor_gate),
            Role::Indexer => (config.idx_dim, place.index_frontier, &work.indexer_kv, &work.indexer_gate),
        };
        let place = |view: &View| (view.offset / 4) as u32;
        let (kv, gate) = (place(kv), place(gate));
        params::Compressor { dim: dim as u32, ape: c.ape, kv, gate, frontier, pad0: 0, pad1: 0, pad2: 0 }
    }

    /// Norm, rotation and rounding of the KV rows, or `last`: only storing rows that are final.
    fn store_kv(&mut self, layer: usize, last: bool) -> Result<(), WgpuError> {
        let p = params::KvRows {
            norm: self.tensors.layers[layer].kv_norm,
            kind: self.kind(layer),
            kinds: self.kinds(),
            eps: self.model.config().eps,
        };
        let views = [&self.tensors.vectors, &self.work.angles, &self.work.kv, &self.work.kv_stored];
        let grid = [self.batch.rows as u32, 1, 1];
        lock(&self.context).recorder.dispatch(Kernel::KvRows { last }, &p, &views, grid)?;
        self.batch.kv_is_stored = true;
        Ok(())
    }

    fn compress(&self, layer: usize, role: Role, c: &Compressor) -> Result<(), WgpuError> {
        let place = self.layout.layers[layer];
        let ratio = place.ratio;
        if !self.batch.positions.iter().any(|position| (position + 1).is_multiple_of(ratio as usize)) {
            lock(&self.context).recorder.skip();
            return Ok(());
        }
        let indexer = role == Role::Indexer;
        let p = params::Compress {
            compressor: self.compressor(layer, role, c),
            norm: c.norm,
            slot_words: place.slot,
            page_words: place.page,
            page_rows: if indexer { place.page_index } else { 0 },
            rows_per_page: place.rows_per_page,
            kind: self.window_kind(layer),
            kinds: self.kinds(),
            eps: self.model.config().eps,
        };
        let work = &self.work;
        let mut context = lock(&self.context);
        let (slots, pages) = (context.slots(layer), context.pages(layer));
        let projected = work.projected();
        let views =
            [&self.tensors.vectors, &work.angles, &work.row_info, &self.scratch.tables, &projected, &slots, &pages];
        let grid = [self.batch.rows as u32, 1, 1];
        context.recorder.dispatch(Kernel::Compress { ratio, role }, &p, &views, grid)
    }

    /// The indexer's choice.
    pub(super) fn select_rows(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let place = self.layout.layers[layer];
        let has_indexer = self.tensors.layers[layer].indexer.is_some();
        let visible = self.batch.reach.checked_div(place.ratio as usize).unwrap_or(0);
        self.batch.selecting = has_indexer && visible > config.idx_topk;
        if !self.batch.selecting {
            return Ok(());
        }
        let exact = is_exact(self.numerics.kv);
        if !exact && !self.batch.has_codes {
            self.encode_index_queries(layer)?;
        }
        let rows = self.batch.rows;
        let most = SCORE_BYTES.min(self.gpu.max_binding as usize);
        // In steps, so that most tokens have the parameters of the token before.
        let stride = visible.next_multiple_of(SCORE_STEP);
        let at_once = (most / (stride * 4)).clamp(1, rows);
        let mut context = lock(&self.context);
        if ensure(&self.gpu, &mut self.scratch.scores, "indexer scores", at_once * stride)? {
            context.recorder.forget()?;
        }
        let work = &self.work;
        let (query, scales) = if exact {
            (&work.indexer_query, &work.indexer_query)
        } else {
            (&work.indexer_codes, &work.indexer_scales)
        };
        let pages = context.pages(layer);
        let scores = &self.scratch.scores;
        for first in (0..rows).step_by(at_once) {
            let n = at_once.min(rows - first) as u32;
            let kernel = Kernel::IndexScores { ratio: place.ratio };
            let p = params::IndexScores {
                first_row: first as u32,
                stride: stride as u32,
                page_words: place.page,
                page_rows: place.page_index,
                rows_per_page: place.rows_per_page,
            };
            let views = [&work.row_info, &self.scratch.tables, &pages, query, scales, &work.indexer_weights, scores];
            let grid = [(visible as u32).div_ceil(SCORED_ROWS), n, 1];
            context.recorder.dispatch(kernel, &p, &views, grid)?;
            let p = params::IndexTop { first_row: first as u32, stride: stride as u32 };
            let views = [&work.row_info, scores, &work.selection];
            context.recorder.dispatch(Kernel::IndexTop { ratio: place.ratio }, &p, &views, [n, 1, 1])?;
        }
        Ok(())
    }

    /// Attention; then the batch's rows enter rings and frontiers.
    pub(super) fn attend_rows(&mut self, layer: usize) -> Result<(), WgpuError> {
        if !self.batch.kv_is_stored {
            self.store_kv(layer, true)?;
        }
        let config = self.model.config();
        let place = self.layout.layers[layer];
        let (rows, heads) = (self.batch.rows, config.n_head);
        // Heads of other sizes are quantized afterwards: their groups would have parts of two.
        let integers = takes_int8(self.int8(), &self.tensors.layers[layer].out_a) && config.head_dim.is_multiple_of(32);
        let mut compressed = self.batch.reach.checked_div(place.ratio as usize).unwrap_or(0);
        if self.batch.selecting {
            // Rows before the first that selects see no more than these.
            compressed = compressed.min(config.idx_topk);
        }
        let most_chunks = chunks(config.window.min(self.batch.reach), compressed);
        let row_floats = heads * most_chunks * part_floats(config);
        let most = PART_BYTES.min(self.gpu.max_binding as usize) / 4;
        let at_once = (most / row_floats).clamp(1, rows);
        {
            let mut context = lock(&self.context);
            if ensure(&self.gpu, &mut self.scratch.parts, "attention parts", at_once * row_floats)? {
                context.recorder.forget()?;
            }
            let (slots, pages) = (context.slots(layer), context.pages(layer));
            let work = &self.work;
            let attended = &work.attended;
            let nothing = context.recorder.nothing();
            let (codes, code_scales) =
                if integers { (&attended.codes, &attended.scales) } else { (&nothing, &nothing) };
            let tables = &self.scratch.tables;
            let parts = &self.scratch.parts;
            let selecting = u32::from(self.batch.selecting);
            for first in (0..rows).step_by(at_once) {
                let n = at_once.min(rows - first) as u32;
                let p = params::Attend {
                    first_row: first as u32,
                    slot_words: place.slot,
                    page_words: place.page,
                    page_rows: 0,
                    rows_per_page: place.rows_per_page,
                    window: config.window as u32,
                    ratio: place.ratio,
                    selecting,
                    most_chunks: most_chunks as u32,
                    scale: (config.head_dim as f32).powf(-0.5),
                };
                let views =
                    [&work.row_info, tables, &work.query, &work.kv_stored, &slots, &pages, &work.selection, parts];
                let grid = [most_chunks as u32, heads.div_ceil(ATTEND_HEADS) as u32, n];
                context.recorder.dispatch(Kernel::Attend, &p, &views, grid)?;
                let p = params::AttendMerge {
                    first_row: first as u32,
                    sinks: self.tensors.layers[layer].sinks,
                    window: config.window as u32,
                    ratio: place.ratio,
                    selecting,
                    most_chunks: most_chunks as u32,
                    kind: self.kind(layer),
                    kinds: self.kinds(),
                };
                let (vectors, selection) = (&self.tensors.vectors, &work.selection);
                let views =
                    [vectors, &work.angles, &work.row_info, selection, parts, &attended.float, codes, code_scales];
                context.recorder.dispatch(Kernel::AttendMerge { integers }, &p, &views, [heads as u32, n, 1])?;
            }
        }
        if !self.batch.is_stored.take() {
            self.store_state(layer)?;
        }
        self.work.attended.quantized = integers;
        Ok(())
    }

    /// The batch enters rings and frontiers.
    fn store_state(&self, layer: usize) -> Result<(), WgpuError> {
        let (config, place) = (self.model.config(), self.layout.layers[layer]);
        let kernel = Kernel::StateStore { ratio: place.ratio };
        let (first, second) = self.compressors(layer);
        let blocks = |c: params::Compressor| c.dim.div_ceil(kernel.workgroup());
        let rows = self.batch.rows as u32;
        let window = config.window as u32;
        let p = params::StateStore { slot_words: place.slot, window, rows, blocks: blocks(first), first, second };
        let mut context = lock(&self.context);
        let slots = context.slots(layer);
        let (work, projected) = (&self.work, self.work.projected());
        let views = [&self.tensors.vectors, &work.row_info, &self.scratch.tables, &work.kv_stored, &projected, &slots];
        let grid = [rows + blocks(first) + blocks(second), self.batch.spans as u32, 1];
        context.recorder.dispatch(kernel, &p, &views, grid)
    }

    /// Grouped low-rank output.
    pub(super) fn attention_out(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let (int8, rows) = (self.int8(), self.batch.rows);
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let recorder = &mut context.recorder;
        let setting = Setting { int8, planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let work = &mut self.work;
        if takes_int8(int8, &tensors.out_a) {
            products::quantize(recorder, &mut work.attended, rows)?;
        }
        work.low.quantized = false;
        let groups = config.o_groups;
        if !takes_int8(int8, &tensors.out_b)
            || !products::to_codes(recorder, setting, &tensors.out_a, &work.attended, rows, groups, &mut work.low)?
        {
            let to = Target { groups: groups as u32, ..Target::rows(&work.low.float, &tensors.out_a) };
            products::all(recorder, setting, &[(&tensors.out_a, to)], &work.attended, rows)?;
        }
        if takes_int8(int8, &tensors.out_b) {
            products::quantize(recorder, &mut work.low, rows)?;
        }
        let to = Target::rows(&work.output, &tensors.out_b);
        products::all(recorder, setting, &[(&tensors.out_b, to)], &work.low, rows)
    }
}
