//! Whether a model fits an NVIDIA card, planned from the file's header alone.

use ds4_cuda::device::DeviceMemory;
use ds4_cuda::{CudaOptions, Residency};
use ds4_model::{KvPrecision, Model, Numerics};
use serde::Serialize;

use crate::units::{bytes, grouped};

/// A model on a card that nothing else uses. Sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct CardFit {
    /// The card's name, or what was asked about.
    pub card: String,
    /// Memory of the card.
    pub memory: u64,
    /// What lies there, if the kernels are made for the model.
    pub plan: Option<CardPlan>,
    /// Why the model cannot run there.
    pub problem: Option<String>,
}

/// What lies in a card's memory. Sizes in bytes, but for rows and tokens.
#[derive(Clone, Debug, Serialize)]
pub struct CardPlan {
    /// Weights as they are laid out on the card.
    pub weights: u64,
    /// Rows of a prefill step.
    pub prefill_rows: usize,
    /// Activations of such a step.
    pub scratch: u64,
    /// Kept free for the driver.
    pub reserve: u64,
    /// Left for conversations.
    pub headroom: u64,
    /// Tokens of context of all conversations together.
    pub context: u64,
}

impl CardFit {
    /// The plan of `model` on a card with `memory` bytes.
    pub fn new(card: String, memory: u64, model: &Model, kv: KvPrecision) -> Self {
        let options = CudaOptions { numerics: Numerics { kv, ..Numerics::default() }, ..CudaOptions::default() };
        let planned = Residency::plan(model, DeviceMemory { free: memory, total: memory }, options);
        let problem =
            planned.as_ref().map_or_else(|e| Some(e.to_string()), |plan| plan.check().err().map(|e| e.to_string()));
        let plan = planned.ok().map(|plan| CardPlan {
            weights: plan.weights,
            prefill_rows: plan.prefill_rows,
            scratch: plan.scratch,
            reserve: plan.reserve,
            headroom: plan.headroom(),
            context: plan.context(),
        });
        Self { card, memory, plan, problem }
    }

    /// The plan for every card of this machine; none without a driver.
    pub fn of_this_machine(model: &Model, kv: KvPrecision) -> Vec<Self> {
        let cards = ds4_cuda::devices().unwrap_or_default();
        cards.into_iter().map(|card| Self::new(card.name, card.memory, model, kv)).collect()
    }

    /// Whether it can run there, and the numbers.
    pub fn sentence(&self) -> (bool, String) {
        match (&self.plan, &self.problem) {
            (_, Some(problem)) => (false, format!("{}: {problem}", self.card)),
            (Some(plan), None) => (
                true,
                format!(
                    "{} ({}): weights {}, scratch {}, driver {}; {} are left, {} tokens of context in all",
                    self.card,
                    bytes(self.memory),
                    bytes(plan.weights),
                    bytes(plan.scratch),
                    bytes(plan.reserve),
                    bytes(plan.headroom),
                    grouped(plan.context)
                ),
            ),
            (None, None) => (false, self.card.clone()),
        }
    }
}
