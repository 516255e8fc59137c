//! What of a model lies in a card's memory, whether that fits, and what a Mac can do if it does not.

use std::collections::BTreeSet;
use std::fmt;

use ds4_model::{Model, Numerics};

use crate::adapter::AdapterReport;
use crate::cache::CacheLayout;
use crate::error::WgpuError;

/// Values of a batch, results, the driver's own: a round figure for the published shape.
const VALUES: u64 = 1 << 30;
/// What the system and other programs of a Mac need beside the card's share.
const SYSTEM: u64 = 8 << 30;
const GIB: u64 = 1 << 30;

/// The plan for a card's memory. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    /// The card.
    pub adapter: String,
    /// Weights, as large as in the file.
    pub weights: u64,
    /// Whether they are used in the mapped file, without a copy.
    pub mapped: bool,
    /// Values of a batch, and the driver's own.
    pub values: u64,
    /// Window rings and compressor frontiers of one sequence.
    pub sequence: u64,
    /// Rows of one page of context, and its tokens.
    pub page: u64,
    /// Tokens of one page.
    pub page_tokens: u64,
    /// Memory for a model, where the interface tells.
    pub memory: Option<u64>,
    /// All memory of the machine, where the card's share of it can be raised.
    pub machine: Option<u64>,
}

impl Residency {
    /// The plan. Nothing is loaded. `share_weights`: tensors that are the same bytes of the file count once.
    pub fn plan(model: &Model, adapter: &AdapterReport, numerics: Numerics, share_weights: bool) -> Self {
        let all = model.gguf().tensors().iter();
        let weights: u64 = match share_weights {
            false => all.map(|info| info.size).sum(),
            true => all
                .map(|info| (info.offset, info.size))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|(_, size)| size)
                .sum(),
        };
        let layout = CacheLayout::new(model.config(), numerics.kv);
        Self {
            adapter: adapter.name.clone(),
            weights,
            mapped: adapter.unified && model.gguf().mapping().is_some(),
            // A small model has small batches' values as well.
            values: VALUES.min(weights / 8),
            sequence: layout.slot_bytes() as u64,
            page: layout.page_bytes() as u64,
            page_tokens: layout.host.page_tokens as u64,
            memory: adapter.memory,
            machine: adapter.machine_memory,
        }
    }

    /// What is taken before the first token: room for four sequences is made at once.
    pub fn needed(&self) -> u64 {
        self.weights + self.values + 4 * self.sequence
    }

    /// What is left for rows of context, where the memory is known.
    pub fn headroom(&self) -> Option<u64> {
        self.memory.map(|memory| memory.saturating_sub(self.needed()))
    }

    /// Tokens of context of all sequences together that there is room for, where the memory is known.
    pub fn context(&self) -> Option<u64> {
        let headroom = self.headroom()?;
        Some(headroom.checked_div(self.page).map_or(u64::MAX, |pages| pages * self.page_tokens))
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// [`WgpuError::TooLarge`] with the numbers and what can be done.
    pub fn check(&self) -> Result<(), WgpuError> {
        let Some(available) = self.memory.filter(|&memory| memory < self.needed()) else { return Ok(()) };
        let remedy = match self.wired_limit() {
            Some(limit) => format!(
                "Let the card have more of this machine's memory, until its next start, by `{limit}`; use `--backend cpu`, which reads the \
                 weights from the file; or a smaller model file"
            ),
            None => "Use `--backend cpu`, which reads the weights from the file, or a smaller model file".to_owned(),
        };
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        Err(WgpuError::TooLarge {
            adapter: self.adapter.clone(),
            available: gib(available),
            needed: gib(self.needed()),
            weights: gib(self.weights),
            remedy,
        })
    }

    /// The command that lets the card have enough of a Mac's memory, if there is enough and the card's share is too small.
    pub fn wired_limit(&self) -> Option<String> {
        wired_limit(self.needed(), self.memory?, self.machine?)
    }
}

/// The command by which a Mac's card gets `needed` bytes and some GiB of context, if it has less and the machine has enough for both.
pub fn wired_limit(needed: u64, memory: u64, machine: u64) -> Option<String> {
    if needed <= memory || needed + SYSTEM > machine {
        return None;
    }
    // Whole GiB, with room for contexts where there is some.
    let wanted = (needed.div_ceil(GIB) + 4).min((machine - SYSTEM) / GIB).max(needed.div_ceil(GIB));
    Some(format!("sudo sysctl iogpu.wired_limit_mb={}", wanted * 1024))
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| match bytes as f64 / GIB as f64 {
            gib if gib < 0.1 => format!("{:.1} MiB", gib * 1024.0),
            gib => format!("{gib:.1} GiB"),
        };
        let how = if self.mapped { "used in the mapped file" } else { "copied to the card" };
        write!(f, "weights {}, {how}; values {}", gib(self.weights), gib(self.values + 4 * self.sequence))?;
        let (Some(memory), Some(headroom), Some(context)) = (self.memory, self.headroom(), self.context()) else {
            return Ok(());
        };
        write!(f, "; {} of {} left for conversations", gib(headroom), gib(memory))?;
        if context < u64::MAX { write!(f, ": {context} tokens of context in all") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(memory: Option<u64>, machine: Option<u64>) -> Residency {
        Residency {
            adapter: "a card".to_owned(),
            weights: 80 * GIB,
            mapped: machine.is_some(),
            values: GIB,
            sequence: GIB / 4,
            page: GIB / 8,
            page_tokens: 128,
            memory,
            machine,
        }
    }

    #[test]
    fn what_fits_leaves_room_for_context() {
        let fits = plan(Some(90 * GIB), None);
        fits.check().expect("82 GiB of 90");
        assert_eq!((fits.headroom(), fits.context()), (Some(8 * GIB), Some(64 * 128)));
        let words = fits.to_string();
        assert!(words.contains("8.0 GiB of 90.0 GiB left") && words.contains("8192 tokens"), "{words}");
        plan(None, None).check().expect("nobody knows better");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let words = plan(Some(81 * GIB), None).check().expect_err("1 GiB is missing").to_string();
        assert!(words.contains("has 81.0 GiB") && words.contains("needs 82.0 GiB (80.0 GiB of weights"), "{words}");
        assert!(!words.contains("sysctl"), "{words}");
    }

    #[test]
    fn a_mac_with_enough_memory_is_told_how_to_raise_the_limit() {
        // A card may use three quarters of 96 GiB.
        let words = plan(Some(72 * GIB), Some(96 * GIB)).check().expect_err("10 GiB are missing").to_string();
        assert!(words.contains(&format!("`sudo sysctl iogpu.wired_limit_mb={}`", 86 * 1024)), "{words}");
        assert_eq!(plan(Some(96 * GIB), Some(128 * GIB)).wired_limit(), None, "it fits");
        assert_eq!(plan(Some(48 * GIB), Some(64 * GIB)).wired_limit(), None, "there is too little for both");
        // Just enough: no more than what leaves the system its share.
        assert_eq!(
            plan(Some(67 * GIB), Some(90 * GIB)).wired_limit().expect("82 of 90 GiB"),
            format!("sudo sysctl iogpu.wired_limit_mb={}", 82 * 1024)
        );
    }
}
