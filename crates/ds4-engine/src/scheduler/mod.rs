//! The engine thread: which sequences a step computes, and what becomes of the result.

mod fairness;
mod logits;
mod pace;
mod share;
mod slot;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, ModelError, Rows, Sequence, StateLayout, forward};

use crate::cache::PrefixCache;
use crate::disk::DiskTier;
use crate::inbox::{Closed, Inbox};
use crate::job::Job;
use crate::{EngineOptions, FinishReason, GenerationError, KvStats};
use fairness::Fairness;
use logits::StepLogits;
use pace::Pace;
use share::{Demand, share};
use slot::Slot;

/// How often to look for room when every running generation waits for its events to be read, or for the disk.
const BLOCKED_POLL: Duration = Duration::from_millis(5);

/// Runs the engine until its inbox is closed and everything is finished.
pub(crate) fn run<B: Backend>(
    backend: B,
    inbox: &Inbox,
    options: EngineOptions,
    layout: &StateLayout,
    disk: Option<DiskTier>,
    stats: &Mutex<KvStats>,
) {
    let budget = options.kv_ram.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let mut scheduler = Scheduler {
        cache: PrefixCache::new(budget, options.retain, layout.page_tokens),
        slots: Vec::new(),
        fairness: Fairness::default(),
        pace: Pace::new(),
        counters: KvStats { budget: options.kv_ram, ..KvStats::default() },
        budget,
        layout,
        disk,
        stats,
        backend,
        options,
    };
    // A panic in a backend leaves its buffers in an unknown state, so there is no going on. But nobody is left waiting.
    let outcome = catch_unwind(AssertUnwindSafe(|| scheduler.run(inbox)));
    if let Err(panic) = outcome {
        let what = panic_message(panic.as_ref());
        inbox.close(Closed::Defect(what.clone()));
        let running = scheduler.slots.drain(..).map(|slot| slot.job);
        for job in running.chain(inbox.clear()) {
            job.finish(FinishReason::Error(GenerationError::Defect(what.clone())));
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

struct Scheduler<'a, B: Backend> {
    backend: B,
    options: EngineOptions,
    /// What states take in memory.
    layout: &'a StateLayout,
    budget: Option<usize>,
    /// Running jobs: the highest priority first, of equal ones the oldest first.
    slots: Vec<Slot<B::Sequence>>,
    cache: PrefixCache<B::Sequence>,
    disk: Option<DiskTier>,
    fairness: Fairness,
    pace: Pace,
    /// What is counted here; the rest is asked for when it is published.
    counters: KvStats,
    stats: &'a Mutex<KvStats>,
}

impl<B: Backend> Scheduler<'_, B> {
    fn run(&mut self, inbox: &Inbox) {
        loop {
            let now = Instant::now();
            self.end_interrupted(now);
            self.take_loads(now);
            self.admit_waiting(inbox, now);
            let computed = self.step(now);
            self.publish();
            if computed {
                continue;
            }
            if !self.slots.is_empty() {
                inbox.wait_briefly(BLOCKED_POLL);
            } else if !inbox.wait_for_job() {
                return;
            }
        }
    }

    /// Ends what ended while it waited, and admits jobs to free places, as long as there is memory for all that they may become.
    fn admit_waiting(&mut self, inbox: &Inbox, now: Instant) {
        let mut free = self.options.parallel - self.slots.len();
        let mut reserved: usize = self.slots.iter().map(|slot| slot.reserved).sum();
        let mut running: Vec<Option<Arc<str>>> = self.slots.iter().map(|slot| slot.job.session().cloned()).collect();
        let intake = inbox.take(now, |waiting| {
            if free == 0 {
                return None;
            }
            // What is alone fits: that was checked when it was accepted.
            let fits = |job: &Job| {
                let needed = reserved.saturating_add(self.reservation(job));
                running.is_empty() || self.budget.is_none_or(|budget| needed <= budget)
            };
            let next = self.fairness.next(waiting, &running, now, fits)?;
            free -= 1;
            reserved = reserved.saturating_add(self.reservation(&waiting[next]));
            running.push(waiting[next].session().cloned());
            Some(next)
        });
        for (job, reason) in intake.ended {
            job.finish(reason);
        }
        for job in intake.admitted {
            self.admit(job, now);
        }
        if intake.shut_down {
            self.end_where(|_| Some(FinishReason::Cancelled));
        }
    }

    /// The most memory that a job can take: its pages, its own state, and that of the snapshot which it starts from.
    fn reservation(&self, job: &Job) -> usize {
        self.layout.sequence_bytes(job.most_tokens()) + self.layout.sequence_bytes(0)
    }

    /// Gives a job a sequence: the longest known beginning of its prompt, or an empty one. If the disk may know more, it is asked first.
    fn admit(&mut self, job: Job, now: Instant) {
        self.fairness.arrive(job.session(), self.slots.iter().map(|slot| slot.job.session()));
        let found = self.cache.find(job.tokens());
        let (sequence, pin) = match found.state {
            Some((sequence, pin)) => (sequence, Some(pin)),
            None => (self.backend.new_sequence(), None),
        };
        let reserved = self.reservation(&job);
        let mut slot = Slot::new(job, sequence, pin, found.common, reserved, &mut self.cache);
        let missing = slot.job.prompt_tokens() - slot.sequence.len();
        slot.loading = match &mut self.disk {
            Some(disk) if missing > disk.page_tokens() => disk.look_for(slot.job.tokens(), slot.sequence.len()),
            _ => None,
        };
        if slot.loading.is_none() {
            self.begin(&mut slot, now);
        }
        let place = self.slots.partition_point(|other| other.job.priority() >= slot.job.priority());
        self.slots.insert(place, slot);
    }

    /// Takes the states that came from disk.
    fn take_loads(&mut self, now: Instant) {
        while let Some(result) = self.disk.as_mut().and_then(DiskTier::next_result) {
            let Some(index) = self.slots.iter().position(|slot| slot.loading == Some(result.ticket)) else { continue };
            let mut slot = self.slots.remove(index);
            slot.loading = None;
            if let Some(state) = result.state {
                self.take_over(&mut slot, &state);
            }
            self.begin(&mut slot, now);
            self.slots.insert(index, slot);
        }
    }

    /// Continues a state from disk instead of what was in memory.
    fn take_over(&mut self, slot: &mut Slot<B::Sequence>, state: &Sequence) {
        let is_of_use = (slot.sequence.len() + 1..slot.job.prompt_tokens()).contains(&state.len());
        if !is_of_use || !self.cache.make_room(self.layout.sequence_bytes(state.len())) {
            return;
        }
        // A device that has no room computes the prompt instead.
        let Ok(sequence) = self.backend.import(state) else { return };
        slot.from_disk = state.len() - slot.sequence.len();
        slot.replace(sequence, &mut self.cache);
        let tokens = &slot.job.tokens()[..slot.sequence.len()];
        self.cache.store_copy(tokens, &slot.sequence, slot.job.session());
    }

    /// A job starts to compute.
    fn begin(&mut self, slot: &mut Slot<B::Sequence>, now: Instant) {
        let reused = slot.sequence.len();
        slot.plan_snapshots(self.layout.page_tokens);
        slot.job.start(now, reused);
        let counters = &mut self.counters;
        counters.disk_tokens += slot.from_disk as u64;
        counters.memory_tokens += (reused - slot.from_disk) as u64;
        match (reused, slot.from_disk) {
            (0, _) => counters.misses += 1,
            (_, 0) => counters.memory_hits += 1,
            _ => counters.disk_hits += 1,
        }
    }

    /// Ends jobs that were cancelled, are late, or whose events nobody reads.
    fn end_interrupted(&mut self, now: Instant) {
        let stall_timeout = self.options.stall_timeout;
        self.end_where(|job| {
            let stalled = job.blocked_for(now) > stall_timeout;
            job.interruption(now).or_else(|| stalled.then_some(FinishReason::Cancelled))
        });
    }

    /// Ends the jobs for which `reason` has one. Their sequences stay known: what is computed is valid however the job ended.
    fn end_where(&mut self, mut reason: impl FnMut(&Job) -> Option<FinishReason>) {
        let mut index = 0;
        while index < self.slots.len() {
            match reason(&self.slots[index].job) {
                Some(reason) => self.end(index, reason),
                None => index += 1,
            }
        }
    }

    fn end(&mut self, index: usize, reason: FinishReason) {
        let Slot { job, sequence, held, pin, mut chain, .. } = self.slots.remove(index);
        self.cache.leave(held);
        pin.into_iter().for_each(|pin| self.cache.unpin(pin));
        // After an error of the backend a sequence may be written in part.
        if !matches!(reason, FinishReason::Error(_)) {
            let tokens = &job.tokens()[..sequence.len()];
            if let Some(disk) = &mut self.disk {
                disk.save(&self.backend, tokens, &sequence, &mut chain, job.session());
            }
            self.cache.store(tokens, sequence, job.session());
        }
        // Who receives the last event may ask for the counters at once.
        self.publish();
        job.finish(reason);
    }

    /// Computes one batch. False if no sequence has anything to compute.
    fn step(&mut self, now: Instant) -> bool {
        let demands: Vec<Demand> = self.slots.iter_mut().map(|slot| slot.demand(now)).collect();
        let decoding = demands.iter().filter(|demand| **demand == Demand::Decode).count();
        let most = self.options.prefill_chunk.unwrap_or_else(|| self.backend.prefill_rows());
        let shares = share(&demands, self.pace.rows(decoding, most));
        let rows: usize = shares.iter().sum();
        if rows == 0 {
            return false;
        }
        let growth: usize = self.slots.iter().zip(&shares).map(|(slot, &rows)| slot.growth(rows, self.layout)).sum();
        // Running sequences have their memory reserved; what is not found here is at most what each has begun.
        self.cache.make_room(growth);
        let mut outcomes = match self.compute(&shares) {
            Ok(logits) => self.distribute(&shares, &logits),
            Err(error) => {
                let error = GenerationError::Backend(Arc::new(error));
                let failed = |&rows: &usize| (rows > 0).then(|| FinishReason::Error(error.clone()));
                shares.iter().map(failed).collect()
            }
        };
        for (slot, &share) in self.slots.iter().zip(&shares) {
            let decoded = usize::from(share == 1 && slot.sequence.len() > slot.job.prompt_tokens());
            self.fairness.serve(slot.job.session(), slot.job.weight(), share - decoded, decoded);
        }
        // From the last to the first, so that the numbers of the others stay.
        for index in (0..outcomes.len()).rev() {
            if let Some(reason) = outcomes[index].take() {
                self.end(index, reason);
            }
        }
        self.pace.observe(decoding, rows - decoding, now.elapsed());
        true
    }

    /// Runs `shares[i]` rows of slot `i`. Returns what sampling needs for the slots that have then nothing pending, in
    /// order.
    fn compute(&mut self, shares: &[usize]) -> Result<StepLogits, ModelError> {
        let mut rows = Rows::new();
        let mut sequences = Vec::with_capacity(self.slots.len());
        for (slot, &share) in self.slots.iter_mut().zip(shares).filter(|(_, share)| **share > 0) {
            // Tokens that are known and not computed: the rest of the prompt, or the token sampled last.
            let pending = &slot.job.tokens()[slot.sequence.len()..];
            let wanted = if share == pending.len() { Wanted::Last } else { Wanted::None };
            rows.push(sequences.len(), slot.sequence.len(), &pending[..share], wanted);
            sequences.push(&mut slot.sequence);
        }
        forward(&mut self.backend, &rows, &mut sequences)?;
        if rows.wanted().is_empty() {
            return Ok(StepLogits::none());
        }
        let computed = self.slots.iter_mut().zip(shares).filter(|(slot, share)| **share > 0 && slot.is_computed());
        StepLogits::fetch(&mut self.backend, computed.map(|(slot, _)| &mut slot.job))
    }

    /// Reports what was computed and samples where the logits are there. Returns why each slot is done, if it is.
    fn distribute(&mut self, shares: &[usize], logits: &StepLogits) -> Vec<Option<FinishReason>> {
        let mut row = 0..;
        let mut outcomes = Vec::with_capacity(shares.len());
        for (slot, &share) in self.slots.iter_mut().zip(shares) {
            let mut outcome = None;
            if share > 0 {
                let computed = slot.sequence.len();
                self.cache.update(&mut slot.held, &slot.sequence, computed - share);
                if computed <= slot.job.prompt_tokens() {
                    slot.job.report_prefill(computed);
                }
                if slot.job.wants_snapshot(computed) {
                    let tokens = &slot.job.tokens()[..computed];
                    self.cache.store_copy(tokens, &slot.sequence, slot.job.session());
                    if let Some(disk) = &mut self.disk {
                        disk.save(&self.backend, tokens, &slot.sequence, &mut slot.chain, slot.job.session());
                    }
                }
                if slot.is_computed()
                    && let Some(row) = row.next()
                {
                    let mut read = |tokens| self.backend.read_logits(row, tokens);
                    let sampled = slot.job.sample(logits.row(row, &mut read));
                    outcome = sampled.unwrap_or_else(|error| Some(FinishReason::Error(error)));
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Makes the counters known to others.
    fn publish(&self) {
        let usage = self.cache.usage();
        let stats = KvStats {
            page_bytes: usage.page_bytes as u64,
            state_bytes: usage.own_bytes as u64,
            index_bytes: usage.index_bytes as u64,
            pages: usage.pages as u64,
            snapshots: usage.snapshots as u64,
            running: self.slots.len() as u64,
            evictions: usage.evictions,
            disk: self.disk.as_ref().map(DiskTier::stats),
            ..self.counters
        };
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}
