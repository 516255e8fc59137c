//! One accepted request, from the queue to its last event.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_chat::tokenizer::Tokenizer;
use ds4_model::ModelError;
use ds4_model::logits::{Digest, DigestRequest};

use crate::event::{Event, EventSink, FinishReason, Finished, Prefill, Started, Timings, Token, Usage};
use crate::generation::CancelHandle;
use crate::inbox::Permit;
use crate::sampling::{Directive, Flow, Guide, Sampler};
use crate::text::TextStream;
use crate::{GenerationError, Request, StopMatcher};

/// A request on its way, with everything that is its own: tokens, sampler, text, events. Only the sequence state is not here.
///
/// However it ends, the last thing that it sends is one [`Event::Finished`].
pub(crate) struct Job {
    /// The prompt, then the sampled tokens.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    reused_tokens: usize,
    /// Lengths of beginnings of the prompt whose states are to be kept.
    snapshots: Vec<usize>,
    max_tokens: usize,
    sampler: Sampler,
    guide: Option<Box<dyn Guide>>,
    stop_tokens: Vec<u32>,
    text: TextStream,
    priority: i32,
    session: Option<Arc<str>>,
    weight: f64,
    deadline: Option<Instant>,
    cancel: CancelHandle,
    sink: Box<dyn EventSink>,
    /// Nobody receives the events.
    disconnected: bool,
    /// Since when there is no room for events.
    blocked_since: Option<Instant>,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    /// `None` once it has finished.
    permit: Option<Permit>,
}

/// One row of logits, as far as it is on the host.
pub(crate) struct RowLogits<'a> {
    /// Tokens of the vocabulary.
    pub(crate) n_vocab: usize,
    /// The row, if it is here. [n_vocab]
    pub(crate) whole: Option<&'a [f32]>,
    /// What [`Job::digest_request`] asked for, if it did and the backend has such.
    pub(crate) digest: Option<&'a Digest>,
    /// Reads a range of the row.
    pub(crate) read: &'a mut dyn FnMut(Range<usize>) -> Result<Vec<f32>, ModelError>,
}

/// What a job needs beside its request.
pub(crate) struct Admission {
    /// Most tokens to sample.
    pub(crate) max_tokens: usize,
    /// Matcher of its stop sequences.
    pub(crate) stops: StopMatcher,
    /// Seed where the request has none.
    pub(crate) seed: u64,
    /// Its place in the inbox.
    pub(crate) permit: Permit,
    /// How it is cancelled.
    pub(crate) cancel: CancelHandle,
    /// Where its events go.
    pub(crate) sink: Box<dyn EventSink>,
}

impl Job {
    pub(crate) fn new(request: Request, admission: Admission, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            sampler: Sampler::new(&request.sampling, &request.prompt, admission.seed),
            prompt_tokens: request.prompt.len(),
            tokens: request.prompt,
            reused_tokens: 0,
            snapshots: request.snapshots,
            max_tokens: admission.max_tokens,
            guide: request.guide,
            stop_tokens: request.stop_tokens,
            text: TextStream::new(tokenizer, admission.stops),
            priority: request.priority,
            session: request.session.map(Arc::from),
            weight: request.weight,
            deadline: request.deadline,
            cancel: admission.cancel,
            sink: admission.sink,
            disconnected: false,
            blocked_since: None,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            permit: Some(admission.permit),
        }
    }

    pub(crate) fn priority(&self) -> i32 {
        self.priority
    }

    /// Whose it is.
    pub(crate) fn session(&self) -> Option<&Arc<str>> {
        self.session.as_ref()
    }

    /// What its session gets beside others.
    pub(crate) fn weight(&self) -> f64 {
        self.weight
    }

    /// How long it has been waiting or running.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.submitted)
    }

    /// Tokens when it has sampled as many as it may.
    pub(crate) fn most_tokens(&self) -> usize {
        self.prompt_tokens.saturating_add(self.max_tokens)
    }

    /// Keeps the states after so many tokens of the prompt as well.
    pub(crate) fn add_snapshots(&mut self, at: impl IntoIterator<Item = usize>) {
        self.snapshots.extend(at);
    }

    /// Lengths of beginnings of the prompt whose states are to be kept.
    pub(crate) fn snapshots(&self) -> &[usize] {
        &self.snapshots
    }

    /// The prompt and the tokens sampled so far.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// How many of the prompt's tokens may be computed at once after the first `computed`: up to the next snapshot, or all.
    pub(crate) fn prefill_span(&self, computed: usize) -> usize {
        let next = self.snapshots.iter().copied().filter(|&at| at > computed).min();
        next.unwrap_or(self.prompt_tokens) - computed
    }

    /// Whether the state after `computed` tokens is to be kept.
    pub(crate) fn wants_snapshot(&self, computed: usize) -> bool {
        self.snapshots.contains(&computed)
    }

    /// Why it has to end now, seen from outside.
    pub(crate) fn interruption(&self, now: Instant) -> Option<FinishReason> {
        if self.cancel.is_cancelled() || self.disconnected {
            Some(FinishReason::Cancelled)
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(FinishReason::Deadline)
        } else {
            None
        }
    }

    /// Whether there is room for the events of a step.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        let room = self.sink.has_room();
        self.blocked_since = if room { None } else { self.blocked_since.or(Some(now)) };
        room
    }

    /// How long there has been no room.
    pub(crate) fn blocked_for(&self, now: Instant) -> Duration {
        self.blocked_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// It leaves the queue, with `reused_tokens` of its prompt computed.
    pub(crate) fn start(&mut self, now: Instant, reused_tokens: usize) {
        self.started = Some(now);
        self.reused_tokens = reused_tokens;
        self.send(Event::Started(Started {
            seed: self.sampler.seed(),
            prompt_tokens: self.prompt_tokens,
            reused_tokens,
            max_tokens: self.max_tokens,
        }));
    }

    /// `done` tokens of the prompt are computed.
    pub(crate) fn report_prefill(&mut self, done: usize) {
        let (total, reused) = (self.prompt_tokens, self.reused_tokens);
        self.send(Event::Prefill(Prefill { done, total, reused }));
    }

    /// The digest of row number `row` of the step's logits that may do for the next token; `None` if the row itself is needed.
    pub(crate) fn digest_request(&mut self, row: usize) -> Option<DigestRequest> {
        let directive = self.guide.as_mut().map_or(Directive::default(), |guide| guide.directive());
        self.sampler.digest_request(row, &directive)
    }

    /// Samples the next token. Returns why the job is done, if it is.
    ///
    /// # Errors
    /// Logits that allow no token; a failing device.
    pub(crate) fn sample(&mut self, logits: RowLogits<'_>) -> Result<Option<FinishReason>, GenerationError> {
        let directive = self.guide.as_mut().map_or(Directive::default(), |guide| guide.directive());
        let failed = |error| GenerationError::Backend(Arc::new(error));
        let from_digest = match logits.digest {
            Some(digest) => {
                self.sampler.sample_from(digest, &directive, logits.n_vocab, &mut *logits.read).map_err(failed)?
            }
            None => None,
        };
        let sampled = match (from_digest, logits.whole) {
            (Some(sampled), _) => sampled,
            (None, Some(whole)) => self.sampler.sample(whole, &directive)?,
            (None, None) => {
                let whole = (logits.read)(0..logits.n_vocab).map_err(failed)?;
                self.sampler.sample(&whole, &directive)?
            }
        };
        let id = sampled.token;
        self.tokens.push(id);
        self.first_token.get_or_insert_with(Instant::now);
        let flow = self.guide.as_mut().map_or(Flow::Continue, |guide| guide.accept(id));

        let stop_token = self.stop_tokens.contains(&id);
        let text = if stop_token { String::new() } else { self.text.push(id) };
        self.send(Event::Token(Token { id, text, logprobs: sampled.logprobs }));

        let stop_sequence = || self.text.stop().map(|stop| FinishReason::StopSequence(stop.to_owned()));
        Ok(if stop_token {
            Some(FinishReason::Stop)
        } else if let Some(reason) = stop_sequence() {
            Some(reason)
        } else if flow == Flow::Stop {
            Some(FinishReason::Stop)
        } else if self.sampled_tokens() >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        })
    }

    fn sampled_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Sends the last event.
    pub(crate) fn finish(mut self, reason: FinishReason) {
        self.end(reason);
    }

    fn end(&mut self, reason: FinishReason) {
        // Given back first: who receives the last event may submit the next request at once.
        if self.permit.take().is_none() {
            return;
        }
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        let finished = Finished {
            reason,
            text: self.text.finish(),
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                reused_tokens: self.reused_tokens,
                completion_tokens: self.sampled_tokens(),
            },
            timings: Timings {
                queued: started.saturating_duration_since(self.submitted),
                prefill: first_token.saturating_duration_since(started),
                decode: now.saturating_duration_since(first_token),
            },
        };
        self.send(Event::Finished(finished));
    }

    fn send(&mut self, event: Event) {
        if self.sink.send(event).is_err() {
            self.disconnected = true;
        }
    }

    /// It was never accepted: nothing is sent.
    pub(crate) fn discard(mut self) {
        self.permit = None;
    }
}

impl Drop for Job {
    /// A job that is dropped on the way (a panic unwinds through its owner) does not leave anybody waiting.
    fn drop(&mut self) {
        let what = "the generation was dropped before its end".to_owned();
        self.end(FinishReason::Error(GenerationError::Defect(what)));
    }
}
