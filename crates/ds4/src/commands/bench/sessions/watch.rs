//! A generation whose events are noted with the times at which the engine made them.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::bail;
use ds4_engine::sampling::SamplingParams;
use ds4_engine::{CancelHandle, Disconnected, Engine, Event, EventSink, FinishReason, Request};

use crate::interrupt::Interrupt;

/// How often to look whether Ctrl-C was pressed.
const POLL: Duration = Duration::from_millis(100);

/// A generation that runs, and what it has said so far.
pub struct Watched {
    marks: Receiver<(Instant, Mark)>,
    cancel: CancelHandle,
    /// When it was submitted.
    pub submitted: Instant,
    /// Tokens of its prompt that were not computed again.
    pub reused: usize,
    /// Tokens of its prompt that are computed.
    pub prefilled: usize,
    /// When each token was there.
    pub tokens: Vec<Instant>,
    /// Their ids.
    pub ids: Vec<u32>,
    /// When it ended.
    pub finished: Option<Instant>,
}

enum Mark {
    Started(usize),
    Prefilled(usize),
    Token(u32),
    Finished(FinishReason),
}

/// The engine's end.
struct Clock(Sender<(Instant, Mark)>);

impl EventSink for Clock {
    fn has_room(&mut self) -> bool {
        true
    }

    fn send(&mut self, event: Event) -> Result<(), Disconnected> {
        let mark = match event {
            Event::Started(started) => Mark::Started(started.reused_tokens),
            Event::Prefill(prefill) => Mark::Prefilled(prefill.done),
            Event::Token(token) => Mark::Token(token.id),
            Event::Finished(finished) => Mark::Finished(finished.reason),
        };
        self.0.send((Instant::now(), mark)).map_err(|_| Disconnected)
    }
}

impl Watched {
    /// Submits a prompt. The answer has `max_tokens` tokens, or as many as fit.
    ///
    /// # Errors
    /// The engine does not take it.
    pub fn start(engine: &Engine, prompt: Vec<u32>, max_tokens: Option<usize>, session: &str) -> anyhow::Result<Self> {
        let request = Request {
            max_tokens,
            sampling: SamplingParams { seed: Some(7), ..SamplingParams::default() },
            session: Some(session.to_owned()),
            ..Request::new(prompt)
        };
        let (sender, marks) = mpsc::channel();
        let submitted = Instant::now();
        let cancel = engine.submit_to(request, Box::new(Clock(sender)))?;
        let (tokens, ids) = (Vec::new(), Vec::new());
        Ok(Self { marks, cancel, submitted, reused: 0, prefilled: 0, tokens, ids, finished: None })
    }

    /// Follows it until `is_enough` or its end. False after Ctrl-C.
    ///
    /// # Errors
    /// It failed.
    pub fn follow(&mut self, interrupt: &Interrupt, mut is_enough: impl FnMut(&Self) -> bool) -> anyhow::Result<bool> {
        loop {
            if interrupt.is_pressed() {
                return Ok(false);
            }
            if self.finished.is_some() || is_enough(self) {
                return Ok(true);
            }
            match self.marks.recv_timeout(POLL) {
                Ok((at, mark)) => self.note(at, mark)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the engine ended"),
            }
        }
    }

    /// Follows it for a while, or to its end. False after Ctrl-C.
    ///
    /// # Errors
    /// It failed.
    pub fn follow_for(&mut self, interrupt: &Interrupt, time: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + time;
        self.follow(interrupt, |_| Instant::now() >= end)
    }

    fn note(&mut self, at: Instant, mark: Mark) -> anyhow::Result<()> {
        match mark {
            Mark::Started(reused) => self.reused = reused,
            Mark::Prefilled(done) => self.prefilled = done,
            Mark::Token(id) => {
                self.tokens.push(at);
                self.ids.push(id);
            }
            Mark::Finished(FinishReason::Error(error)) => return Err(error.into()),
            Mark::Finished(_) => self.finished = Some(at),
        }
        Ok(())
    }

    /// Asks it to end.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Seconds from the request to the first token.
    pub fn to_first_token(&self) -> Option<f64> {
        self.tokens.first().map(|at| at.saturating_duration_since(self.submitted).as_secs_f64())
    }

    /// Seconds between each two tokens.
    pub fn gaps(&self) -> Vec<f64> {
        self.tokens.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0]).as_secs_f64()).collect()
    }
}
