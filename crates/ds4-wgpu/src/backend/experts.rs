//! Mixture of experts.

use super::products::{self, Choices, Setting, Target, takes_int8};
use super::{WgpuBackend, params};
use crate::cache::lock;
use crate::error::WgpuError;
use crate::shader::{Kernel, Mode, TILE_ROWS};
use crate::tensors::Choice;
use crate::weights::Weight;

/// Rows up to which every slot is computed by itself; more are grouped by expert, so that weights are read once for several.
const MOST_UNGROUPED: usize = 2;

impl WgpuBackend {
    /// Experts of each row and their weights.
    pub(super) fn choose_experts(&mut self, layer: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let int8 = self.int8();
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let rows = self.batch.rows;
        let setting = Setting { int8, grid: &self.tensors.grid, nothing: &nothing };
        let work = &mut self.work;
        if takes_int8(int8, &tensors.router) {
            products::quantize(&mut context.recorder, &mut work.input, rows)?;
        }
        let to = Target::rows(&work.router, &tensors.router);
        products::dense(&mut context.recorder, setting, &tensors.router, &work.input, rows, to)?;
        let (table, bias, by_token) = match &tensors.choice {
            Choice::Table(table) => (table, 0, true),
            Choice::Bias(bias) => (&nothing, *bias, false),
        };
        let p = params::Route { bias, table: 0, scale: config.expert_weights_scale };
        let views = [&self.tensors.vectors, table, &work.row_info, &work.router, &work.ids, &work.weights];
        context.recorder.dispatch(Kernel::Route { by_token }, &p, &views, [rows as u32, 1, 1])
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
        for first in (0..self.batch.rows).step_by(self.work.expert_rows) {
            self.run_some(layer, first, self.work.expert_rows.min(self.batch.rows - first))?;
        }
        Ok(())
    }

    fn run_some(&mut self, layer: usize, first: usize, rows: usize) -> Result<(), WgpuError> {
        let config = self.model.config();
        let (used, int8) = (config.n_expert_used, self.int8());
        let slots = (used + 1) as u32;
        let tensors = &self.tensors.layers[layer];
        let mut context = lock(&self.context);
        let nothing = context.recorder.nothing();
        let recorder = &mut context.recorder;
        let setting = Setting { int8, grid: &self.tensors.grid, nothing: &nothing };
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
