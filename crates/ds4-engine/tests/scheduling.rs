//! Several generations at once: places, order, backpressure, and failures that nobody waits for in vain.

mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use ds4_engine::sampling::SamplingParams;
use ds4_engine::{
    Disconnected, Engine, EngineError, EngineOptions, Event, EventSink, FinishReason, GenerationError, Request,
};
use support::mock::{Control, Fault, greedy_answer, mock_backend};
use support::{HANG, collect, tokenizer};

fn engine(options: EngineOptions) -> (Engine, Arc<Control>) {
    let (backend, control) = mock_backend();
    (Engine::start(backend, tokenizer(), options).expect("valid options"), control)
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), sampling: SamplingParams::greedy(), ..Request::new(prompt.to_vec()) }
}

#[test]
fn a_full_queue_refuses_and_a_finished_job_makes_room_at_once() {
    let (engine, control) = engine(EngineOptions { parallel: 2, queue: 1, ..EngineOptions::default() });
    control.allow(0);
    let mut places: Vec<_> = (0..3).map(|i| engine.submit(greedy(&[i], 2)).expect("a place")).collect();
    let refused = engine.submit(greedy(&[9], 2)).expect_err("full");
    assert!(matches!(refused, EngineError::QueueFull { capacity: 3 }));
    assert_eq!(
        refused.to_string(),
        "the engine is busy: 3 requests are running or waiting, and it takes no more; try again later"
    );
    control.open();
    for _ in 0..50 {
        let first = places.remove(0);
        assert_eq!(collect(first).ids.len(), 2);
        // Whoever has seen the last event may come again.
        places.push(engine.submit(greedy(&[7], 2)).expect("a place"));
    }
}

#[test]
fn decoding_goes_on_beside_a_long_prefill() {
    let (engine, control) =
        engine(EngineOptions { parallel: 3, prefill_chunk: Some(4), retain: 0, ..EngineOptions::default() });
    control.allow(0);
    let short = engine.submit(greedy(&[1, 2], 6)).expect("a place");
    control.wait_for_step(1);
    let long: Vec<u32> = (100..118).collect();
    let long_one = engine.submit(greedy(&long, 2)).expect("a place");
    let other = engine.submit(greedy(&[3, 4, 5], 2)).expect("a place");
    control.open();
    assert_eq!(collect(short).ids, greedy_answer(&[1, 2], 6));
    assert_eq!(collect(long_one).ids, greedy_answer(&long, 2));
    assert_eq!(collect(other).ids, greedy_answer(&[3, 4, 5], 2));
    let sizes: Vec<Vec<usize>> =
        control.batches().iter().map(|batch| batch.iter().map(|span| span.tokens.len()).collect()).collect();
    // The short prompt; then its tokens beside one, two, three and four rows of prompts, as it is seen how little they take. The other
    // two share them until the shorter is over.
    assert_eq!(sizes[..5], [vec![2], vec![1, 1], vec![1, 1, 1], vec![1, 2, 1], vec![1, 4, 1]]);
    assert_eq!(sizes[5..], [vec![1, 4], vec![4], vec![3], vec![1]]);
}

#[test]
fn a_higher_priority_goes_first() {
    let (engine, control) = engine(EngineOptions { retain: 0, ..EngineOptions::default() });
    control.allow(0);
    let order = [(1, 0), (2, 0), (3, 5), (4, 0), (5, -1), (6, 5)];
    let mut running = Vec::new();
    for (token, priority) in order {
        running.push(engine.submit(Request { priority, ..greedy(&[token], 1) }).expect("a place"));
        if token == 1 {
            control.wait_for_step(1);
        }
    }
    control.open();
    running.into_iter().for_each(|generation| assert_eq!(collect(generation).ids.len(), 1));
    let prompts: Vec<u32> = control.batches().iter().map(|batch| batch[0].tokens[0]).collect();
    assert_eq!(prompts, [1, 3, 6, 2, 4, 5]);
}

#[test]
fn cancelled_and_dropped_generations_make_room() {
    let (engine, control) = engine(EngineOptions { parallel: 1, queue: 2, ..EngineOptions::default() });
    control.allow(1);
    let dropped = engine.submit(greedy(&[1], 1_000_000)).expect("a place");
    let cancelled = engine.submit(greedy(&[2], 1_000_000)).expect("a place");
    let waits = engine.submit(greedy(&[3], 3)).expect("a place");
    control.wait_for_step(2);
    drop(dropped);
    cancelled.cancel_handle().cancel();
    control.open();
    let cancelled = collect(cancelled);
    assert!(matches!(cancelled.finished.reason, FinishReason::Cancelled));
    assert!(cancelled.started.is_none(), "it was still waiting");
    assert_eq!(collect(waits).ids, greedy_answer(&[3], 3));
    let steps_of_dropped = control.batches().iter().filter(|batch| batch[0].first_position > 1).count();
    assert!(steps_of_dropped <= 1, "{steps_of_dropped} steps after it was dropped");
}

#[test]
fn who_does_not_read_waits_alone_and_loses_nothing() {
    let (engine, control) =
        engine(EngineOptions { parallel: 2, event_buffer: 4, retain: 0, ..EngineOptions::default() });
    let slow = engine.submit(greedy(&[1], 40)).expect("a place");
    let quick = engine.submit(greedy(&[2], 200)).expect("a place");
    assert_eq!(collect(quick).ids, greedy_answer(&[2], 200));
    let of_slow = |control: &Control| {
        let batches = control.batches();
        batches.iter().flatten().filter(|span| span.tokens == [1] && span.first_position == 0).count()
    };
    assert_eq!(of_slow(&control), 1);
    let longest = control.batches().iter().filter(|batch| batch.len() == 2).count();
    assert!(longest <= 4, "{longest} steps with four events unread");
    assert_eq!(collect(slow).ids, greedy_answer(&[1], 40));
}

#[test]
fn who_never_reads_is_cancelled() {
    let options = EngineOptions {
        parallel: 1,
        event_buffer: 1,
        stall_timeout: Duration::from_millis(50),
        ..EngineOptions::default()
    };
    let (engine, _) = engine(options);
    let unread = engine.submit(greedy(&[1], 1000)).expect("a place");
    let next = engine.submit(greedy(&[2], 1)).expect("a place");
    // One place: this one can only come when the other was given up. Its own three events are read as they come.
    assert_eq!(collect(next).ids, greedy_answer(&[2], 1));
    let unread = collect(unread);
    assert!(matches!(unread.finished.reason, FinishReason::Cancelled));
    assert!(unread.ids.len() < 1000);
}

#[test]
fn a_failing_device_ends_the_batch_and_not_the_engine() {
    let (engine, control) = engine(EngineOptions { parallel: 2, retain: 8, ..EngineOptions::default() });
    control.allow(0);
    control.fail(3, Fault::Error);
    let both = [1, 2].map(|token| engine.submit(greedy(&[token], 50)).expect("a place"));
    let waiting = engine.submit(greedy(&[3], 5)).expect("a place");
    control.open();
    for generation in both {
        let whole = collect(generation);
        let FinishReason::Error(error @ GenerationError::Backend(_)) = &whole.finished.reason else {
            panic!("{:?}", whole.finished.reason);
        };
        assert_eq!(error.to_string(), "the model could not be computed: the mock device is unplugged");
    }
    let whole = collect(waiting);
    assert_eq!(whole.ids, greedy_answer(&[3], 5));
    let continued = [vec![1], greedy_answer(&[1], 5)].concat();
    let again = collect(engine.submit(greedy(&continued, 5)).expect("a place"));
    assert_eq!(again.finished.usage.reused_tokens, 0, "a state that an error may have spoiled is not used");
}

#[test]
fn a_panic_in_the_backend_leaves_nobody_waiting() {
    let (engine, control) = engine(EngineOptions { parallel: 1, ..EngineOptions::default() });
    control.allow(0);
    control.fail(3, Fault::Panic);
    let running = engine.submit(greedy(&[1], 50)).expect("a place");
    let waiting = engine.submit(greedy(&[2], 50)).expect("a place");
    control.open();
    for generation in [running, waiting] {
        let whole = collect(generation);
        assert!(
            matches!(&whole.finished.reason, FinishReason::Error(GenerationError::Defect(what)) if what == "the mock device is on fire"),
            "{:?}",
            whole.finished.reason
        );
    }
    let refused = engine.submit(greedy(&[1], 1)).expect_err("it has stopped");
    assert!(matches!(&refused, EngineError::Stopped { reason } if reason.contains("on fire")), "{refused}");
    engine.shut_down();
}

/// A sink that ends in a bounded channel of the caller's, as an asynchronous caller has one.
struct Bounded {
    sender: mpsc::SyncSender<Event>,
    /// What the channel did not take yet, in order.
    overflow: Arc<Mutex<VecDeque<Event>>>,
}

impl Bounded {
    fn flush(&self, overflow: &mut VecDeque<Event>) -> Result<(), Disconnected> {
        while let Some(event) = overflow.pop_front() {
            match self.sender.try_send(event) {
                Ok(()) => {}
                Err(mpsc::TrySendError::Full(event)) => {
                    overflow.push_front(event);
                    break;
                }
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(Disconnected),
            }
        }
        Ok(())
    }
}

impl EventSink for Bounded {
    fn has_room(&mut self) -> bool {
        let mut overflow = self.overflow.lock().expect("no panic");
        self.flush(&mut overflow).is_err() || overflow.is_empty()
    }

    fn send(&mut self, event: Event) -> Result<(), Disconnected> {
        let mut overflow = self.overflow.lock().expect("no panic");
        overflow.push_back(event);
        self.flush(&mut overflow)
    }
}

#[test]
fn events_can_go_into_a_channel_of_the_callers() {
    let (engine, _) = engine(EngineOptions::default());
    let (sender, receiver) = mpsc::sync_channel(2);
    let overflow = Arc::default();
    let sink = Bounded { sender, overflow: Arc::clone(&overflow) };
    engine.submit_to(greedy(&[1], 20), Box::new(sink)).expect("a place");
    let mut events = Vec::new();
    while let Ok(event) = receiver.recv_timeout(HANG) {
        events.push(event);
    }
    // What the channel had no place for at the end.
    events.extend(overflow.lock().expect("no panic").drain(..));
    assert!(matches!(events.pop(), Some(Event::Finished(_))));
    let ids = events.iter().filter_map(|event| if let Event::Token(token) = event { Some(token.id) } else { None });
    assert_eq!(ids.collect::<Vec<u32>>(), greedy_answer(&[1], 20));
}

#[test]
fn a_sink_without_a_receiver_cancels() {
    let (engine, control) = engine(EngineOptions { queue: 0, ..EngineOptions::default() });
    let (sender, receiver) = mpsc::sync_channel(1000);
    let sink = Bounded { sender, overflow: Arc::default() };
    control.allow(2);
    engine.submit_to(greedy(&[1], 1_000_000), Box::new(sink)).expect("a place");
    control.wait_for_step(3);
    drop(receiver);
    control.open();
    loop {
        match engine.submit(greedy(&[2], 3)) {
            Ok(generation) => break assert_eq!(collect(generation).ids, greedy_answer(&[2], 3)),
            Err(EngineError::QueueFull { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(control.batches().len() <= 3 + 1 + 3, "{} steps", control.batches().len());
}
