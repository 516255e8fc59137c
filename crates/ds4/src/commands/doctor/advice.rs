//! What to download, and how to run it here.

use super::adapter::Adapter;
use super::card::Card;
use crate::card::CardFit;
use crate::fit::{self, Fit};

/// Longest context of the published models, in tokens: nothing has to be said of it where all of it fits.
const WHOLE_CONTEXT: u64 = 1 << 20;
/// Memory beside the weights on a card that is not planned in detail: activations, and a conversation of usable length.
const BESIDE_WEIGHTS: u64 = 2 << 30;

/// The published model to take.
#[derive(Debug)]
pub struct Advice<'a> {
    pub model: &'a Fit,
    /// The card that holds it, if one does.
    pub card: Option<&'a str>,
    /// Flags for `ds4 run`, each with a blank before it.
    pub flags: String,
}

impl<'a> Advice<'a> {
    /// A card that holds a model computes it many times faster than the processor: the largest model that a card holds,
    /// else the one that suits the memory.
    pub fn new(published: &'a [Fit], cards: &'a [Card], adapters: &'a [Adapter]) -> Option<Advice<'a>> {
        on_a_card(published, cards).or_else(|| on_an_adapter(published, adapters)).or_else(|| {
            let model = fit::recommended(published)?;
            Some(Advice { model, card: None, flags: of_processor(model) })
        })
    }
}

/// Flags for a model on the processor.
pub fn of_processor(fit: &Fit) -> String {
    context_flag(fit.context as u64)
}

/// Flags for a model on the NVIDIA card for which it was planned.
pub fn of_card(fit: &CardFit) -> Option<String> {
    let plan = fit.plan.as_ref().filter(|_| fit.problem.is_none())?;
    Some(format!(" --backend cuda{}", context_flag(plan.context)))
}

fn context_flag(context: u64) -> String {
    match context {
        0 | WHOLE_CONTEXT.. => String::new(),
        // A round number is easier to remember than the last token that fits.
        context => format!(" --ctx {}", if context >= 1024 { context / 1024 * 1024 } else { context }),
    }
}

fn on_a_card<'a>(published: &'a [Fit], cards: &'a [Card]) -> Option<Advice<'a>> {
    let held = cards.iter().filter(|card| card.unusable.is_none()).flat_map(|card| {
        let advice = move |(name, planned): &(&'static str, CardFit)| {
            let is_usable = planned.plan.as_ref().is_some_and(|plan| plan.context >= fit::USABLE as u64);
            let flags = of_card(planned).filter(|_| is_usable)?;
            let model = published.iter().find(|fit| fit.name == *name)?;
            Some(Advice { model, card: Some(&card.name), flags })
        };
        card.models.iter().filter_map(advice)
    });
    held.max_by_key(|advice| advice.model.bytes)
}

fn on_an_adapter<'a>(published: &'a [Fit], adapters: &'a [Adapter]) -> Option<Advice<'a>> {
    // What the processor simulates is no faster than the processor.
    let usable = adapters.iter().filter(|adapter| adapter.unusable.is_none() && adapter.kind != "software");
    let held = usable.flat_map(|adapter| {
        let room = adapter.memory.unwrap_or(0).saturating_sub(BESIDE_WEIGHTS);
        let fitting = published.iter().filter(move |fit| fit.bytes <= room);
        let flags = format!(" --backend {}", adapter.api);
        fitting.map(move |model| Advice { model, card: Some(&adapter.name), flags: flags.clone() })
    });
    held.max_by_key(|advice| advice.model.bytes)
}

/// The largest published model that does not fit a Mac's card now and would with more of the machine's memory, and the command for that.
pub fn after_raising_the_limit<'a>(published: &'a [Fit], adapters: &[Adapter]) -> Option<(&'a Fit, String)> {
    let all = published.iter().flat_map(|fit| adapters.iter().map(move |adapter| (fit, adapter)));
    let found = all.filter_map(|(fit, adapter)| Some((fit, adapter.wired_limit(fit.bytes + BESIDE_WEIGHTS)?)));
    found.max_by_key(|(fit, _)| fit.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Memory;
    use ds4_model::KvPrecision;

    const GIB: u64 = 1 << 30;

    fn published(available: u64) -> Vec<Fit> {
        let memory = Memory { total: available, available, limit: None };
        fit::of_published(KvPrecision::Model, memory, 100e9).expect("temporary files")
    }

    fn card(memory: u64) -> Card {
        let models = fit::uniform_models().expect("temporary files");
        let planned = |(name, model): &(&'static str, _)| {
            (*name, CardFit::new("a card".to_owned(), memory, model, KvPrecision::Model))
        };
        Card {
            name: "a card".to_owned(),
            memory,
            capability: "9.0".to_owned(),
            cuda: "13.0".to_owned(),
            bandwidth: None,
            unusable: None,
            models: models.iter().map(planned).collect(),
        }
    }

    fn adapter(memory: u64, kind: &'static str) -> Adapter {
        Adapter {
            name: "an adapter".to_owned(),
            api: "vulkan",
            driver: String::new(),
            kind,
            memory: Some(memory),
            machine_memory: None,
            zero_copy: false,
            largest_binding_bytes: 0,
            largest_buffer_bytes: 0,
            workgroup_memory_bytes: 0,
            subgroups: None,
            float16_arithmetic: false,
            cooperative_matrices: false,
            unusable: None,
        }
    }

    /// Names of model and card, and the flags.
    fn advice(published: &[Fit], cards: &[Card], adapters: &[Adapter]) -> (String, Option<String>, String) {
        let advice = Advice::new(published, cards, adapters).expect("some advice");
        (advice.model.name.clone(), advice.card.map(str::to_owned), advice.flags)
    }

    /// The processor's memory alone once decided, also beside a card that holds a model.
    #[test]
    fn a_card_that_holds_a_model_comes_before_memory() {
        let fits = published(256 * GIB);
        assert_eq!(advice(&fits, &[], &[]), ("q4".to_owned(), None, String::new()));
        let (name, on, flags) = advice(&fits, &[card(141 * GIB)], &[adapter(141 * GIB, "discrete")]);
        assert_eq!((name.as_str(), on.as_deref()), ("q2", Some("a card")));
        assert!(flags.starts_with(" --backend cuda"), "{flags}");
        assert_eq!(advice(&published(16 * GIB), &[card(24 * GIB)], &[]).0, "q2");
        assert_eq!(advice(&fits, &[card(24 * GIB)], &[]).1, None);
        let broken = Card { unusable: Some("the driver is too old".to_owned()), ..card(141 * GIB) };
        assert_eq!(advice(&fits, &[broken], &[]).1, None);
    }

    #[test]
    fn other_cards_count_unless_they_are_simulated() {
        let fits = published(16 * GIB);
        let on = advice(&fits, &[], &[adapter(84 * GIB, "discrete")]);
        assert_eq!(on, ("q2".to_owned(), Some("an adapter".to_owned()), " --backend vulkan".to_owned()));
        assert_eq!(advice(&fits, &[], &[adapter(96 * GIB, "software")]).1, None);
        assert_eq!(advice(&fits, &[], &[adapter(16 * GIB, "discrete")]).1, None);
    }

    #[test]
    fn a_mac_that_could_hold_a_model_is_told_how() {
        let fits = published(16 * GIB);
        let mac = |memory, machine| Adapter { machine_memory: Some(machine), ..adapter(memory, "integrated") };
        let (fit, command) = after_raising_the_limit(&fits, &[mac(72 * GIB, 96 * GIB)]).expect("96 GiB hold q2");
        assert_eq!((fit.name.as_str(), command.as_str()), ("q2", "sudo sysctl iogpu.wired_limit_mb=89088"));
        assert!(after_raising_the_limit(&fits, &[mac(48 * GIB, 64 * GIB)]).is_none());
        assert!(after_raising_the_limit(&fits, &[adapter(72 * GIB, "discrete")]).is_none());
    }
}
