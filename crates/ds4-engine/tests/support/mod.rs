//! What the engine's tests share: a small vocabulary, a small model, and a backend made for observing the scheduler.
#![allow(dead_code)] // Each including test uses its own part.

pub mod hashed;
pub mod mock;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ds4_chat::tokenizer::Tokenizer;
use ds4_engine::sampling::{Directive, Flow, Guide, TokenLogprobs};
use ds4_engine::{Event, Finished, Generation, Prefill, Started};
use ds4_model::Model;

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| ds4_scripted::open_model(ds4_testdata::path("tiny/s-f16.gguf")));

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| ds4_scripted::tokenizer_of(&MODEL));

/// The model `s-f16` of the test data.
pub fn model() -> Arc<Model> {
    Arc::clone(&MODEL)
}

/// Its tokenizer.
pub fn tokenizer() -> Arc<Tokenizer> {
    Arc::clone(&TOKENIZER)
}

/// Forces tokens one after the other; then lets go, or stops.
pub struct Forced {
    tokens: Vec<u32>,
    next: usize,
    stop: bool,
}

impl Forced {
    pub fn boxed(tokens: Vec<u32>) -> Option<Box<dyn Guide>> {
        Some(Box::new(Self { tokens, next: 0, stop: false }))
    }

    pub fn then_stop(tokens: Vec<u32>) -> Option<Box<dyn Guide>> {
        Some(Box::new(Self { tokens, next: 0, stop: true }))
    }
}

impl Guide for Forced {
    fn directive(&mut self) -> Directive<'_> {
        Directive { forced: self.tokens.get(self.next).copied(), ..Directive::default() }
    }

    fn accept(&mut self, token: u32) -> Flow {
        assert!(self.tokens.get(self.next).is_none_or(|&forced| forced == token));
        self.next += 1;
        if self.stop && self.next == self.tokens.len() { Flow::Stop } else { Flow::Continue }
    }
}

/// Longer than any generation of these tests takes: what waits this long hangs.
pub const HANG: Duration = Duration::from_secs(30);

/// A generation from its first event to its last, put together.
#[derive(Debug)]
pub struct Whole {
    pub started: Option<Started>,
    pub prefills: Vec<Prefill>,
    pub ids: Vec<u32>,
    pub logprobs: Vec<Option<TokenLogprobs>>,
    /// The text of each token, and what came with the end.
    pub texts: Vec<String>,
    pub finished: Finished,
}

impl Whole {
    pub fn text(&self) -> String {
        self.texts.concat()
    }
}

/// Receives a generation to its end, checking the order of events.
pub fn collect(mut generation: Generation) -> Whole {
    let mut whole = gather(&mut generation);
    assert!(generation.next_timeout(HANG).is_none(), "an event after the last one");
    whole.texts.push(whole.finished.text.clone());
    whole
}

fn gather(generation: &mut Generation) -> Whole {
    let (mut started, mut prefills, mut ids, mut logprobs, mut texts) = (None, vec![], vec![], vec![], vec![]);
    loop {
        match generation.next_timeout(HANG).expect("an event; the generation hangs") {
            Event::Started(event) => {
                assert!(started.is_none());
                started = Some(event);
            }
            Event::Prefill(event) => {
                assert!(started.is_some() && ids.is_empty());
                prefills.push(event);
            }
            Event::Token(event) => {
                assert!(prefills.last().is_some_and(|prefill| prefill.done == prefill.total));
                ids.push(event.id);
                logprobs.push(event.logprobs);
                texts.push(event.text);
            }
            Event::Finished(finished) => {
                assert_eq!(finished.usage.completion_tokens, ids.len());
                return Whole { started, prefills, ids, logprobs, texts, finished };
            }
        }
    }
}
