//! Mixture of experts.

use ds4_model::Sublayer;

use super::products::{self, Choices, Setting, Target, takes_int8};
use super::{WgpuBackend, params};
use crate::cache::lock;
use crate::error::WgpuError;
use crate::recorder::View;
use crate::shader::{self, Format, Kernel, Mode, TILE_ROWS};
use crate::tensors::{Choice, Layer};
use crate::weights::Weight;

/// Rows up to which every slot is computed by itself; more are grouped by expert, so that weights are read once for several.
const MOST_UNGROUPED: usize = 8;

impl WgpuBackend {
    /// Experts of each row and their weights.
    pub(super) fn choose_experts(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let int8 = self.int8();
        let hyper = self.hyper_params(layer, Sublayer::Experts);
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let rows = self.batch.rows;
        let setting = Setting { int8, planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let work = &mut self.work;
        if takes_int8(int8, &tensors.router) {
            products::quantize(&mut context.recorder, &mut work.input, rows)?;
        }
        let to = Target::rows(&work.router, &tensors.router);
        products::all(&mut context.recorder, setting, &[(&tensors.router, to)], &work.input, rows)?;
        let (table, bias, by_token) = match &tensors.choice {
            Choice::Table(table) => (table, 0, true),
            Choice::Bias(bias) => (&nothing, *bias, false),
        };
        let p = params::Route { bias, table: 0, scale: config.expert_weights_scale, pad: 0, hyper };
        let views = [&self.tensors.vectors, table, &work.row_info, &work.router, &work.ids, &work.weights, &work.merge];
        context.recorder.dispatch(Kernel::Route { by_token }, &p, &views, [rows as u32, 2, 1])?;
        self.batch.unweighted.set(None);
        Ok(())
    }

    /// Routed and shared experts, added up in order. Many rows take turns, so that buffers keep a bounded size.
    pub(super) fn run_experts(&mut self, layer: usize) -> Result<(), WgpuError> {
        let int8 = self.int8();
        let tensors = &self.tensors.layers[layer];
        if [&tensors.gate_exps, &tensors.up_exps, &tensors.gate_shexp, &tensors.up_shexp]
            .iter()
            .any(|weight| takes_int8(int8, weight))
        {
            products::quantize(&mut lock(&self.context).recorder, &mut self.work.input, self.batch.rows)?;
        }
        if self.batch.rows <= MOST_UNGROUPED
            && let Some(fused) = Fused::of(tensors, int8, self.planes)
        {
            return self.run_fused(layer, fused);
        }
        for first in (0..self.batch.rows).step_by(self.work.expert_rows) {
            self.run_some(layer, first, self.work.expert_rows.min(self.batch.rows - first))?;
        }
        Ok(())
    }

    /// All experts of a few rows: both projections with the inner values, then the results with their sum.
    fn run_fused(&self, layer: usize, fused: Fused<'_>) -> Result<(), WgpuError> {
        let config = self.model.config();
        let (tensors, work) = (&self.tensors.layers[layer], &self.work);
        let rows = self.batch.rows as u32;
        let slots = config.n_expert_used as u32 + 1;
        let base = |weight: &Weight| weight.parts[0].base;
        let choices = View::all(work.ids.buffer.clone());
        let mut context = lock(&self.context);
        // Bindings in the order of their numbers.
        let bindings = |formats: [Format; 2], (one, other), [a, b, c]: [_; 3], last| -> Vec<&View> {
            let grid = formats.contains(&Format::Iq2Xxs).then_some(&self.tensors.grid);
            let other = shader::differ(formats[0], formats[1], self.planes).then_some(other);
            [Some(one), Some(a), Some(b), Some(c), grid, Some(&choices), last, other].into_iter().flatten().collect()
        };

        let p = params::ExpertsIn {
            gate: base(&tensors.gate_exps),
            up: base(&tensors.up_exps),
            row_bytes: tensors.gate_exps.row_bytes,
            matrix_bytes: tensors.gate_exps.matrix_bytes,
            other_gate: base(&tensors.gate_shexp),
            other_up: base(&tensors.up_shexp),
            other_row_bytes: tensors.gate_shexp.row_bytes,
            weights_at: ((work.weights.offset - work.ids.offset) / 4) as u32,
            first_row: 0,
            first_slot: 0,
            slots,
            limit: config.swiglu_limit[layer],
        };
        let (routed, shared) = (tensors.gate_exps.format, tensors.gate_shexp.format);
        let views = [&work.input.codes, &work.input.scales, &work.mid.codes];
        let views = bindings([routed, shared], fused.first, views, Some(&work.mid.scales));
        let grid = [config.n_ff as u32 / 32, rows * slots, 1];
        context.recorder.dispatch(Kernel::ExpertsIn { routed, shared }, &p, &views, grid)?;

        let p = params::ExpertsOut {
            base: base(&tensors.down_exps),
            row_bytes: tensors.down_exps.row_bytes,
            matrix_bytes: tensors.down_exps.matrix_bytes,
            other_base: base(&tensors.down_shexp),
            other_row_bytes: tensors.down_shexp.row_bytes,
            first_row: 0,
        };
        let (routed, shared) = (tensors.down_exps.format, tensors.down_shexp.format);
        let kernel = Kernel::ExpertsOut { routed, shared };
        let views = [&work.mid.codes, &work.mid.scales, &work.output];
        let views = bindings([routed, shared], fused.second, views, None);
        let grid = [(config.n_embd as u32).div_ceil(kernel.workgroup() / 32), rows, 1];
        context.recorder.dispatch(kernel, &p, &views, grid)
    }

    fn run_some(&mut self, layer: usize, first: usize, rows: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let (used, int8) = (config.n_expert_used, self.int8());
        let slots = (used + 1) as u32;
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let recorder = &mut context.recorder;
        let setting = Setting { int8, planes: self.planes, grid: &self.tensors.grid, nothing: &nothing };
        let work = &self.work;

        let grouped = rows > MOST_UNGROUPED;
        let choose = |weight: &Weight, by_slot: bool| {
            // Products that decode weights to float32 take slots one by one.
            let tiled = grouped && (takes_int8(int8, weight) || !weight.format.is_block());
            let most_tiles = (config.n_expert + (rows * used).div_ceil(TILE_ROWS as usize)).min(rows * used);
            Choices {
                view: if tiled { &work.groups } else { &work.ids },
                mode: if tiled { Mode::Grouped } else { Mode::BySlot },
                tasks: if tiled { most_tiles } else { rows * used } as u32,
                slots,
                first_row: first as u32,
                by_slot,
            }
        };
        if grouped {
            let p = params::GroupSlots { first_row: first as u32, rows: rows as u32, list: work.group_list as u32 };
            recorder.dispatch(Kernel::GroupSlots, &p, &[&work.ids, &work.groups], [1, 1, 1])?;
        }
        for (routed, shared, y) in
            [(&tensors.gate_exps, &tensors.gate_shexp, &work.gate), (&tensors.up_exps, &tensors.up_shexp, &work.up)]
        {
            products::experts(recorder, setting, routed, &work.input, &choose(routed, false), y)?;
            let to = Target { mul: (1, slots), add: (first as u32, used as u32), ..Target::rows(y, shared) };
            products::dense(recorder, setting, shared, &work.input, rows, to)?;
        }

        let integers = [&tensors.down_exps, &tensors.down_shexp].iter().any(|weight| takes_int8(int8, weight));
        let kernel = Kernel::Swiglu { integers };
        let groups = rows as u32 * slots * (config.n_ff as u32 / 32);
        let p = params::Swiglu { groups, first_row: first as u32, limit: config.swiglu_limit[layer] };
        let mid = &work.mid;
        let views = [&work.gate, &work.up, &work.weights, &mid.float, &mid.codes, &mid.scales];
        recorder.dispatch(kernel, &p, &views, [groups.div_ceil(kernel.workgroup()), 1, 1])?;

        products::experts(recorder, setting, &tensors.down_exps, mid, &choose(&tensors.down_exps, true), &work.parts)?;
        let to = Target {
            mul: (slots, slots),
            add: (used as u32, used as u32),
            ..Target::rows(&work.parts, &tensors.down_shexp)
        };
        products::dense(recorder, setting, &tensors.down_shexp, mid, rows, to)?;
        let grid = [(config.n_embd as u32 / 4).div_ceil(Kernel::Combine.workgroup()), rows as u32, 1];
        let p = params::Combine { first_row: first as u32 };
        recorder.dispatch(Kernel::Combine, &p, &[&work.parts, &work.output], grid)
    }
}

/// The weights of experts whose projections run in two kernels: those of the routed experts, then of the shared one, for each.
struct Fused<'a> {
    first: (&'a View, &'a View),
    second: (&'a View, &'a View),
}

impl<'a> Fused<'a> {
    /// `None` if their formats or places do not allow it.
    fn of(t: &'a Layer, int8: bool, planes: bool) -> Option<Self> {
        // What two matrices lie in together.
        let view = |a: &'a Weight, b: &'a Weight| {
            let [part] = &a.parts[..] else { return None };
            let same = a.format == b.format && a.row_bytes == b.row_bytes && b.parts.len() == 1;
            (same && takes_int8(int8, a) && b.parts[0].view == part.view).then_some(&part.view)
        };
        let pair = |routed: (&'a Weight, &'a Weight), shared: (&'a Weight, &'a Weight)| {
            let (one, other) = (view(routed.0, routed.1)?, view(shared.0, shared.1)?);
            // Formats that are bound in the same pieces share the binding.
            (one == other || shader::differ(routed.0.format, shared.0.format, planes)).then_some((one, other))
        };
        Some(Self {
            first: pair((&t.gate_exps, &t.up_exps), (&t.gate_shexp, &t.up_shexp))?,
            second: pair((&t.down_exps, &t.down_exps), (&t.down_shexp, &t.down_shexp))?,
        })
    }
}
