//! Whatever callers do, in whatever order: every generation ends once, says what it would have said alone, and gives
//! its place back.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_engine::sampling::SamplingParams;
use ds4_engine::{Engine, EngineError, EngineOptions, Event, FinishReason, Generation, Request};
use proptest::prelude::*;
use support::mock::{Control, greedy_answer, mock_backend};
use support::{HANG, tokenizer};

/// What a caller can do. Generations are chosen by number, modulo how many there are.
#[derive(Clone, Debug)]
enum Action {
    Submit {
        prompt: Vec<u32>,
        max_tokens: usize,
        priority: i32,
        expired: bool,
        snapshots: Vec<usize>,
    },
    Cancel(usize),
    Drop(usize),
    Read(usize),
    /// Lets the engine compute this many steps more.
    Step(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let snapshots = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let submit = (prop::collection::vec(0_u32..2, 1..12), 1_usize..10, -1..=1, prop::bool::weighted(0.1), snapshots)
        .prop_map(|(prompt, max_tokens, priority, expired, snapshots)| {
            let snapshots = snapshots.iter().map(|index| index.index(prompt.len()) + 1).collect();
            Action::Submit { prompt, max_tokens, priority, expired, snapshots }
        });
    prop_oneof![
        4 => submit,
        1 => any::<usize>().prop_map(Action::Cancel),
        1 => any::<usize>().prop_map(Action::Drop),
        3 => any::<usize>().prop_map(Action::Read),
        3 => (1_usize..8).prop_map(Action::Step),
    ]
}

fn options() -> impl Strategy<Value = EngineOptions> {
    (1_usize..4, 1_usize..8, 0_usize..5, 0_usize..3, 1_usize..6).prop_map(
        |(parallel, prefill_chunk, queue, retain, event_buffer)| EngineOptions {
            parallel,
            prefill_chunk: Some(prefill_chunk),
            queue,
            retain,
            event_buffer,
            ..EngineOptions::default()
        },
    )
}

/// A generation that was accepted, and what it has said so far.
struct Tracked {
    generation: Option<Generation>,
    prompt: Vec<u32>,
    max_tokens: usize,
    expired: bool,
    cancelled: bool,
    events: Vec<Event>,
}

impl Tracked {
    fn is_finished(&self) -> bool {
        matches!(self.events.last(), Some(Event::Finished(_)))
    }

    /// Takes what there is; whether the end was among it.
    fn read(&mut self) -> bool {
        if let Some(generation) = &mut self.generation {
            self.events.extend(std::iter::from_fn(|| generation.try_next()));
        }
        self.is_finished()
    }

    /// Checks a generation that was read to its end.
    fn check(&self) {
        let mut events = self.events.iter();
        let Some(Event::Finished(finished)) = events.next_back() else {
            panic!("no end");
        };
        let mut ids = Vec::new();
        let mut computed = 0;
        for (number, event) in events.enumerate() {
            match event {
                Event::Started(started) => {
                    assert_eq!(number, 0);
                    assert_eq!(started.reused_tokens, finished.usage.reused_tokens);
                    computed = started.reused_tokens;
                }
                Event::Prefill(prefill) => {
                    assert!(number > 0 && ids.is_empty() && prefill.done > computed);
                    computed = prefill.done;
                }
                Event::Token(token) => {
                    assert_eq!(computed, self.prompt.len());
                    ids.push(token.id);
                }
                Event::Finished(_) => panic!("ended twice"),
            }
        }
        let answer = greedy_answer(&self.prompt, self.max_tokens);
        assert!(answer.starts_with(&ids), "{ids:?} is not the beginning of {answer:?}");
        assert_eq!(finished.usage.completion_tokens, ids.len());
        match &finished.reason {
            FinishReason::Length => assert_eq!(ids, answer),
            FinishReason::Cancelled => assert!(self.cancelled),
            FinishReason::Deadline => assert!(self.expired && ids.is_empty()),
            other => panic!("ended by {other:?}"),
        }
    }
}

struct World {
    engine: Engine,
    control: Arc<Control>,
    allowed: usize,
    tracked: Vec<Tracked>,
}

impl World {
    fn capacity(&self) -> usize {
        self.engine.options().parallel + self.engine.options().queue
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { prompt, max_tokens, priority, expired, snapshots } => {
                let request = Request {
                    max_tokens: Some(max_tokens),
                    sampling: SamplingParams::greedy(),
                    priority,
                    deadline: expired.then(Instant::now),
                    snapshots,
                    ..Request::new(prompt.clone())
                };
                let unfinished = self.tracked.iter().filter(|tracked| !tracked.is_finished()).count();
                match self.engine.submit(request) {
                    Ok(generation) => self.tracked.push(Tracked {
                        generation: Some(generation),
                        prompt,
                        max_tokens,
                        expired,
                        cancelled: false,
                        events: Vec::new(),
                    }),
                    Err(EngineError::QueueFull { capacity }) => {
                        assert_eq!(capacity, self.capacity());
                        assert!(unfinished >= capacity, "refused with {unfinished} of {capacity} places taken");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Action::Step(steps) => {
                self.allowed += steps;
                self.control.allow(self.allowed);
            }
            Action::Cancel(number) | Action::Drop(number) | Action::Read(number) => {
                let count = self.tracked.len();
                let Some(tracked) = self.tracked.get_mut(number % count.max(1)) else { return };
                match action {
                    Action::Cancel(_) => {
                        tracked.cancelled = true;
                        if let Some(generation) = &tracked.generation {
                            generation.cancel();
                        }
                    }
                    Action::Drop(_) => tracked.generation = None,
                    _ => tracked.events.extend(tracked.generation.as_mut().and_then(Generation::try_next)),
                }
            }
        }
    }

    fn settle(mut self) {
        self.control.open();
        let patience = Instant::now() + HANG;
        // In turns: a place may be held by one that waits to be read.
        let mut unfinished: Vec<&mut Tracked> =
            self.tracked.iter_mut().filter(|tracked| tracked.generation.is_some()).collect();
        while !unfinished.is_empty() {
            unfinished.retain_mut(|tracked| !tracked.read());
            assert!(Instant::now() < patience, "{} generations hang", unfinished.len());
            std::thread::yield_now();
        }
        for tracked in self.tracked.iter_mut().filter(|tracked| tracked.generation.is_some()) {
            tracked.check();
            let after = tracked.generation.as_mut().and_then(|generation| generation.next_timeout(HANG));
            assert!(after.is_none(), "an event after the last one");
        }
        // Every place is free again; dropped generations give theirs back within a step.
        let mut last = Vec::new();
        while last.len() < self.capacity() {
            match self.engine.submit(Request { max_tokens: Some(1000), ..Request::new(vec![3]) }) {
                Ok(generation) => last.push(generation),
                Err(EngineError::QueueFull { .. }) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.engine.shut_down();
        for mut generation in last {
            let end = generation.by_ref().last();
            assert!(
                matches!(&end, Some(Event::Finished(finished)) if matches!(finished.reason, FinishReason::Cancelled))
            );
        }

        let options = self.engine.options();
        for batch in self.control.batches() {
            assert!(!batch.is_empty() && batch.len() <= options.parallel);
            let prefill: usize = batch.iter().map(|span| span.tokens.len()).filter(|&rows| rows > 1).sum();
            assert!(options.prefill_chunk.is_none_or(|most| prefill <= most), "{batch:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_hangs_and_nothing_is_lost(
        options in options(),
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let (backend, control) = mock_backend();
        control.allow(0);
        let engine = Engine::start(backend, tokenizer(), options).expect("valid options");
        let mut world = World { engine, control, allowed: 0, tracked: Vec::new() };
        for action in actions {
            world.act(action);
        }
        world.settle();
    }
}
