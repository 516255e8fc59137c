//! The engine thread: which sequences a step computes, and what becomes of the result.

mod share;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, ModelError, Rows, forward};

use crate::inbox::{Closed, Inbox};
use crate::job::Job;
use crate::prefix::PrefixCache;
use crate::{EngineOptions, FinishReason, GenerationError};
use share::{Demand, share};

/// How often to look for room when every running generation waits for its events to be read.
const BLOCKED_POLL: Duration = Duration::from_millis(5);

/// Runs the engine until its inbox is closed and everything is finished.
pub(crate) fn run<B: Backend>(backend: B, inbox: &Inbox, options: EngineOptions) {
    let mut scheduler = Scheduler {
        n_vocab: backend.model().config().n_vocab,
        prefixes: PrefixCache::new(options.retain),
        slots: Vec::new(),
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

struct Scheduler<B: Backend> {
    backend: B,
    options: EngineOptions,
    n_vocab: usize,
    /// Running jobs: the highest priority first, of equal ones the oldest first.
    slots: Vec<Slot<B::Sequence>>,
    prefixes: PrefixCache<B::Sequence>,
}

/// A running job and its sequence.
struct Slot<S> {
    job: Job,
    sequence: S,
}

impl<S: SequenceState> Slot<S> {
    /// Tokens that are known and not computed: the rest of the prompt, or the token sampled last.
    fn pending(&self) -> &[u32] {
        &self.job.tokens()[self.sequence.len()..]
    }

    fn demand(&mut self, now: Instant) -> Demand {
        if !self.job.has_room(now) {
            Demand::Blocked
        } else if self.sequence.len() < self.job.prompt_tokens() {
            Demand::Prefill(self.job.prefill_span(self.sequence.len()))
        } else {
            Demand::Decode
        }
    }
}

impl<B: Backend> Scheduler<B> {
    fn run(&mut self, inbox: &Inbox) {
        loop {
            let now = Instant::now();
            self.end_interrupted(now);
            let intake = inbox.take(self.options.parallel - self.slots.len(), now);
            for (job, reason) in intake.ended {
                job.finish(reason);
            }
            for job in intake.admitted {
                self.admit(job, now);
            }
            if intake.shut_down {
                self.end_where(|_| Some(FinishReason::Cancelled));
            }
            if self.step(now) {
                continue;
            }
            if !self.slots.is_empty() {
                inbox.wait_briefly(BLOCKED_POLL);
            } else if !inbox.wait_for_job() {
                return;
            }
        }
    }

    /// Gives a job a sequence: the longest known beginning of its prompt, or an empty one.
    fn admit(&mut self, mut job: Job, now: Instant) {
        let found = self.prefixes.find(job.tokens());
        let sequence = found.unwrap_or_else(|| self.backend.new_sequence());
        job.start(now, sequence.len());
        let place = self.slots.partition_point(|other| other.job.priority() >= job.priority());
        self.slots.insert(place, Slot { job, sequence });
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
        let Slot { job, sequence } = self.slots.remove(index);
        // After an error of the backend a sequence may be written in part.
        if !matches!(reason, FinishReason::Error(_)) {
            self.prefixes.store(job.tokens()[..sequence.len()].to_vec(), sequence);
        }
        job.finish(reason);
    }

    /// Computes one batch. False if no sequence has anything to compute.
    fn step(&mut self, now: Instant) -> bool {
        let demands: Vec<Demand> = self.slots.iter_mut().map(|slot| slot.demand(now)).collect();
        let shares = share(&demands, self.options.prefill_chunk);
        if shares.iter().all(|&rows| rows == 0) {
            return false;
        }
        let mut outcomes = match self.compute(&shares) {
            Ok(logits) => self.distribute(&shares, &logits),
            Err(error) => {
                let error = GenerationError::Backend(Arc::new(error));
                let failed = |&rows: &usize| (rows > 0).then(|| FinishReason::Error(error.clone()));
                shares.iter().map(failed).collect()
            }
        };
        // From the last to the first, so that the numbers of the others stay.
        for index in (0..outcomes.len()).rev() {
            if let Some(reason) = outcomes[index].take() {
                self.end(index, reason);
            }
        }
        true
    }

    /// Runs `shares[i]` rows of slot `i`. Returns the logits of the slots that have then nothing pending, in order:
    /// [those slots, n_vocab].
    fn compute(&mut self, shares: &[usize]) -> Result<Vec<f32>, ModelError> {
        let mut rows = Rows::new();
        let mut sequences = Vec::with_capacity(self.slots.len());
        for (slot, &share) in self.slots.iter_mut().zip(shares).filter(|(_, share)| **share > 0) {
            let pending = slot.pending();
            let wanted = if share == pending.len() { Wanted::Last } else { Wanted::None };
            rows.push(sequences.len(), slot.sequence.len(), &pending[..share], wanted);
            sequences.push(&mut slot.sequence);
        }
        forward(&mut self.backend, &rows, &mut sequences)?;
        if rows.wanted().is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.backend.read(Buffer::Logits)?;
        let expected = rows.wanted().len() * self.n_vocab;
        if logits.len() != expected {
            let found = logits.len();
            return Err(ModelError::Device(format!("the backend gave {found} logits where {expected} were due")));
        }
        Ok(logits)
    }

    /// Reports what was computed and samples where the logits are there. Returns why each slot is done, if it is.
    fn distribute(&mut self, shares: &[usize], logits: &[f32]) -> Vec<Option<FinishReason>> {
        let mut logits = logits.chunks_exact(self.n_vocab);
        let mut outcomes = Vec::with_capacity(shares.len());
        for (slot, &share) in self.slots.iter_mut().zip(shares) {
            let mut outcome = None;
            if share > 0 {
                let computed = slot.sequence.len();
                if computed <= slot.job.prompt_tokens() {
                    slot.job.report_prefill(computed);
                }
                if slot.job.wants_snapshot(computed) {
                    self.prefixes.store(slot.job.tokens()[..computed].to_vec(), slot.sequence.fork());
                }
                if slot.pending().is_empty()
                    && let Some(logits) = logits.next()
                {
                    outcome = slot.job.sample(logits).unwrap_or_else(|error| Some(FinishReason::Error(error.into())));
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    }
}
