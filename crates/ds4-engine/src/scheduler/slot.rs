//! A running job and its sequence.

use std::time::Instant;

use ds4_kvstore::Chain;
use ds4_model::StateLayout;
use ds4_model::state::SequenceState;

use super::share::Demand;
use crate::cache::{Held, Pin, PrefixCache};
use crate::disk::Ticket;
use crate::job::Job;

/// Tokens between two snapshots in the middle of a long prompt: what a change there costs at most, beside what comes after it.
const CHECKPOINT: usize = 8192;

pub(super) struct Slot<S> {
    pub(super) job: Job,
    pub(super) sequence: S,
    /// What the sequence is accounted for.
    pub(super) held: Held,
    /// The snapshot that it started from.
    pub(super) pin: Option<Pin>,
    /// The state that is being read from disk.
    pub(super) loading: Option<Ticket>,
    /// Keys of the pages, as far as they were needed.
    pub(super) chain: Option<Chain>,
    /// Bytes that it may come to take.
    pub(super) reserved: usize,
    /// Reused tokens that were on disk only.
    pub(super) from_disk: usize,
    /// Tokens of the prompt that somebody else's begins with as well.
    common: usize,
}

impl<S: SequenceState> Slot<S> {
    pub(super) fn new(
        job: Job,
        sequence: S,
        pin: Option<Pin>,
        common: usize,
        reserved: usize,
        cache: &mut PrefixCache<S>,
    ) -> Self {
        let held = cache.enter(&sequence);
        Self { job, sequence, held, pin, loading: None, chain: None, reserved, from_disk: 0, common }
    }

    /// Goes on with another state of the same prompt.
    pub(super) fn replace(&mut self, sequence: S, cache: &mut PrefixCache<S>) {
        let held = cache.enter(&sequence);
        self.sequence = sequence;
        cache.leave(std::mem::replace(&mut self.held, held));
        self.pin.take().into_iter().for_each(|pin| cache.unpin(pin));
    }

    pub(super) fn demand(&mut self, now: Instant) -> Demand {
        if self.loading.is_some() || !self.job.has_room(now) {
            Demand::Blocked
        } else if self.sequence.len() < self.job.prompt_tokens() {
            let tokens = self.job.prefill_span(self.sequence.len());
            Demand::Prefill { tokens, priority: self.job.priority() }
        } else {
            Demand::Decode
        }
    }

    /// Whether every known token is computed: the next one is to be sampled.
    pub(super) fn is_computed(&self) -> bool {
        self.sequence.len() == self.job.tokens().len()
    }

    /// Bytes of the pages that computing `rows` more tokens begins.
    pub(super) fn growth(&self, rows: usize, layout: &StateLayout) -> usize {
        let pages = |tokens: usize| tokens.div_ceil(layout.page_tokens);
        (pages(self.sequence.len() + rows) - pages(self.sequence.len())) * layout.page_bytes
    }

    /// Adds the places whose states are worth keeping though nobody asked for them: where the prompt leaves one that is known, one
    /// near its end for the same prompt again, and some in between if it is long. All at page boundaries, where a state is smallest.
    pub(super) fn plan_snapshots(&mut self, page_tokens: usize) {
        let (from, prompt) = (self.sequence.len(), self.job.prompt_tokens());
        let aligned = |tokens: usize| tokens / page_tokens * page_tokens;
        let near_end = aligned(prompt.saturating_sub(1));
        let is_near_end = |&at: &usize| at >= near_end && at < prompt;
        let mut places = vec![aligned(self.common.min(prompt - 1))];
        if !self.job.snapshots().iter().any(is_near_end) {
            places.push(near_end);
        }
        let spacing = aligned(CHECKPOINT).max(page_tokens);
        places.extend((1..=near_end / spacing).map(|number| number * spacing));
        places.retain(|&at| at > from && !self.job.snapshots().contains(&at));
        self.job.add_snapshots(places);
    }
}
