//! States that are kept in memory and on disk: what is reused, what it costs, and that it never changes an answer.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use ds4_engine::sampling::SamplingParams;
use ds4_engine::{Engine, EngineError, EngineOptions, Event, Generation, Request};
use ds4_kvstore::{KvStore, StoreOptions};
use proptest::prelude::*;
use support::hashed::{Cost, HashedBackend, answer};
use support::{HANG, Whole, collect, tokenizer};

const PAGE: usize = 128;

fn engine_with(options: EngineOptions, store: Option<&KvStore>) -> Engine {
    Engine::start_with_store(HashedBackend::new(), tokenizer(), options, store).expect("valid options")
}

fn open(folder: &Path, budget: u64) -> KvStore {
    KvStore::open(StoreOptions::new(folder, budget)).expect("a usable folder")
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), sampling: SamplingParams::greedy(), ..Request::new(prompt.to_vec()) }
}

/// Tokens that only `seed` gives.
fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|n| (seed.wrapping_mul(31) + n * n + n * seed) % 400).collect()
}

fn ask(engine: &Engine, prompt: &[u32], max_tokens: usize) -> Whole {
    let whole = collect(engine.submit(greedy(prompt, max_tokens)).expect("accepted"));
    assert_eq!(whole.ids, answer(prompt, max_tokens));
    whole
}

fn reused(engine: &Engine, prompt: &[u32]) -> usize {
    ask(engine, prompt, 3).finished.usage.reused_tokens
}

#[test]
fn regenerating_and_editing_the_last_message_reuse_everything_before() {
    let engine = engine_with(EngineOptions::default(), None);
    let mut talk = text(1, 300);
    for turn in 0..3 {
        talk.extend(text(10 + turn, 150));
        let whole = ask(&engine, &talk, 20);
        talk.extend(whole.ids);
    }
    let before = talk.len() - 20;
    let prompt = &talk[..before];
    assert_eq!(reused(&engine, prompt), before / PAGE * PAGE, "the same prompt again, from the last page");
    let end_of_turn = before - 150 - 1;
    let edited = [&talk[..end_of_turn + 1], &text(99, 150)[..]].concat();
    assert_eq!(reused(&engine, &edited), end_of_turn, "another last message, from the end of the turn before");
}

#[test]
fn a_common_beginning_is_shared_once_it_is_known_to_be_common() {
    let engine = engine_with(EngineOptions::default(), None);
    let system = text(1, 1000);
    let with = |n: u32| [&system[..], &text(n, 200)[..]].concat();
    assert_eq!(reused(&engine, &with(2)), 0);
    assert_eq!(reused(&engine, &with(3)), 0, "nobody said that the beginning would come again");
    assert_eq!(reused(&engine, &with(4)), 1000 / PAGE * PAGE, "but it did");
    let before = engine.kv_stats();
    assert_eq!(reused(&engine, &with(5)), 1000 / PAGE * PAGE);
    let after = engine.kv_stats();
    assert_eq!(after.pages - before.pages, 3, "its pages are not copied: 200 tokens begin three");
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut talk = text(1, 700);
    for turn in 0..4 {
        // A new process each turn.
        let store = open(folder.path(), 1 << 30);
        let engine = engine_with(EngineOptions::default(), Some(&store));
        let whole = ask(&engine, &talk, 30);
        let expected = if turn == 0 { 0 } else { talk.len() - 100 - 1 };
        assert_eq!(whole.finished.usage.reused_tokens, expected, "turn {turn}");
        let stats = engine.kv_stats();
        assert_eq!((stats.disk_tokens, stats.memory_tokens), (expected as u64, 0));
        talk.extend(whole.ids);
        talk.extend(text(20 + turn, 100));
        engine.shut_down();
    }
}

#[test]
fn a_conversation_that_left_memory_comes_back_from_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path(), 1 << 30);
    // No room for a second conversation.
    let layout = HashedBackend::new();
    let budget = layout.layout().sequence_bytes(1100) + 3 * layout.layout().sequence_bytes(0);
    let options = EngineOptions { kv_ram: Some(budget as u64), ..EngineOptions::default() };
    let engine = engine_with(options, Some(&store));
    let (first, second) = (text(1, 1000), text(2, 1000));
    ask(&engine, &first, 10);
    ask(&engine, &second, 10);
    store.flush();
    let again = [&first[..], &answer(&first, 10)[..], &[7]].concat();
    assert_eq!(reused(&engine, &again), 1009);
    assert!(engine.kv_stats().disk_tokens > 0);
    assert!(engine.kv_stats().bytes() <= budget as u64);
}

#[test]
fn another_precisions_states_are_not_used() {
    // The reference backend with the same model, file and tokens.
    use ds4_model::KvPrecision;
    use ds4_model::reference::ReferenceBackend;
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path(), 1 << 30);
    let prompt = text(1, PAGE + 2);
    let reused = |precision| {
        let backend = ReferenceBackend::new(support::model(), precision);
        let engine = Engine::start_with_store(backend, tokenizer(), EngineOptions::default(), Some(&store));
        let engine = engine.expect("valid options");
        let whole = collect(engine.submit(greedy(&prompt, 1)).expect("accepted"));
        engine.shut_down();
        store.flush();
        (whole.finished.usage.reused_tokens, whole.ids)
    };
    let (cold, first) = reused(KvPrecision::Model);
    assert_eq!((cold, reused(KvPrecision::Exact).0), (0, 0));
    assert_eq!(reused(KvPrecision::Model), (PAGE, first));
    assert_eq!(reused(KvPrecision::Exact).0, PAGE);
}

#[test]
fn a_request_that_memory_cannot_hold_is_refused_and_one_that_must_wait_waits() {
    let layout = HashedBackend::new();
    let bytes = |tokens| layout.layout().sequence_bytes(tokens) as u64;
    let start = |options| Engine::start(HashedBackend::new(), tokenizer(), options);
    let error = start(EngineOptions { kv_ram: Some(1000), ..EngineOptions::default() }).expect_err("too little");
    assert!(error.to_string().contains("kv_ram is 1000; it must be at least"), "{error}");
    let options = EngineOptions { kv_ram: Some(bytes(1000)), ctx: Some(2000), ..EngineOptions::default() };
    let error = start(options).expect_err("less than the context takes");
    assert!(error.to_string().contains("2000 tokens of context"), "{error}");

    // Room for two requests of 512 tokens, or one of at least 1024.
    let budget = 2 * (bytes(512) + bytes(0)) + 1000;
    let options = EngineOptions { kv_ram: Some(budget), parallel: 4, ..EngineOptions::default() };
    let engine = start(options).expect("valid options");
    let context = engine.context();
    assert!(context >= 1024 && bytes(context) + bytes(0) <= budget, "{context}");
    let refused = engine.submit(greedy(&text(1, context), 1)).expect_err("too long");
    assert!(matches!(refused, EngineError::PromptTooLong { .. }), "{refused}");
    let running: Vec<Generation> =
        (0..6).map(|n| engine.submit(greedy(&text(n, 412), 100)).expect("accepted")).collect();
    let slack = 4 * layout.layout().page_bytes as u64;
    let mut most = 0;
    for (n, generation) in running.into_iter().enumerate() {
        let mut ids = Vec::new();
        for event in generation {
            let stats = engine.kv_stats();
            most = most.max(stats.running);
            assert!(stats.bytes() <= budget + slack, "{stats:?}");
            if let Event::Token(token) = event {
                ids.push(token.id);
            }
        }
        assert_eq!(ids, answer(&text(n as u32, 412), 100));
    }
    assert!(most <= 2, "{most} at once");
    assert!(engine.kv_stats().bytes() <= budget);
}

#[test]
fn a_side_request_neither_waits_for_a_long_prompt_nor_displaces_it() {
    let cost = Cost { step: Duration::from_millis(1), row: Duration::from_micros(100) };
    let options = EngineOptions { parallel: 2, prefill_chunk: Some(64), ..EngineOptions::default() };
    let engine = Engine::start(HashedBackend::with_cost(cost), tokenizer(), options).expect("valid options");
    let long = text(1, 3500);
    let mut main = engine.submit(Request { session: Some("main".to_owned()), ..greedy(&long, 5) }).expect("accepted");
    // Not before the long prompt is being computed.
    while !matches!(main.next_timeout(HANG), Some(Event::Prefill(_))) {}
    let side = collect(engine.submit(greedy(&text(2, 100), 5)).expect("accepted"));
    assert_eq!(side.ids, answer(&text(2, 100), 5));
    let mut done = 0;
    while let Some(Event::Prefill(prefill)) = main.try_next() {
        done = prefill.done;
    }
    assert!(done < 3000, "the long prompt was at {done} when the short request was over");
    let ids: Vec<u32> =
        main.filter_map(|event| if let Event::Token(token) = event { Some(token.id) } else { None }).collect();
    assert_eq!(ids, answer(&long, 5));
}

#[test]
fn sessions_take_turns() {
    let options = EngineOptions { parallel: 1, queue: 20, ..EngineOptions::default() };
    let cost = Cost { step: Duration::from_millis(2), row: Duration::ZERO };
    let engine = Engine::start(HashedBackend::with_cost(cost), tokenizer(), options).expect("valid options");
    // One client asks for a lot at once, another for a little after it.
    let of = |session: &str, seed| Request { session: Some(session.to_owned()), ..greedy(&text(seed, 40), 10) };
    let busy: Vec<Generation> = (0..8).map(|n| engine.submit(of("busy", n)).expect("accepted")).collect();
    let other = engine.submit(of("other", 100)).expect("accepted");
    let started = Instant::now();
    collect(other);
    let waited = started.elapsed();
    let unfinished = busy.into_iter().map(|mut generation| {
        let finished = std::iter::from_fn(|| generation.try_next()).any(|event| matches!(event, Event::Finished(_)));
        usize::from(!finished)
    });
    let unfinished: usize = unfinished.sum();
    assert!(unfinished >= 5, "it waited for {} of 8 others, {waited:?}", 8 - unfinished);
}

#[derive(Clone, Debug)]
enum Action {
    /// A new conversation with one of two system prompts.
    Begin(u32, usize),
    /// Another turn of an earlier one.
    Continue(usize, usize),
    /// The last turn of an earlier one again.
    Again(usize),
    Cancel(usize),
    Collect,
    /// The process ends and another begins.
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0_u32..6, 1_usize..300).prop_map(|(seed, len)| Action::Begin(seed, len)),
        6 => (any::<usize>(), 1_usize..200).prop_map(|(which, len)| Action::Continue(which, len)),
        2 => any::<usize>().prop_map(Action::Again),
        1 => any::<usize>().prop_map(Action::Cancel),
        3 => Just(Action::Collect),
        1 => Just(Action::Restart),
    ]
}

fn options() -> impl Strategy<Value = EngineOptions> {
    let budget = prop::option::of(1100_usize..6000);
    (1_usize..4, prop::sample::select(vec![1, 7, 64, 128, 500]), budget, 0_usize..40).prop_map(
        |(parallel, prefill_chunk, tokens, retain)| {
            let layout = HashedBackend::new();
            let bytes = |tokens| (layout.layout().sequence_bytes(tokens) + layout.layout().sequence_bytes(0)) as u64;
            EngineOptions {
                parallel,
                prefill_chunk: Some(prefill_chunk),
                retain,
                queue: 100,
                // Answers are read one after the other, so none may wait to be read.
                event_buffer: 100_000,
                kv_ram: tokens.map(bytes),
                ..EngineOptions::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was computed before, beside it, or in another process: each answer is the answer alone from nothing.
    #[test]
    fn every_answer_is_the_answer_alone(
        options in options(),
        disk in prop::option::of(prop::sample::select(vec![300_000_u64, 2_000_000, 1 << 30])),
        actions in prop::collection::vec(action(), 1..30),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let systems = [text(1000, 300), text(2000, 129)];
        let most = 1000;
        let start = || {
            let store = disk.map(|budget| open(folder.path(), budget));
            (engine_with(options.clone(), store.as_ref()), store)
        };
        let mut process = start();
        let mut prompts: Vec<Vec<u32>> = Vec::new();
        let mut running: Vec<(Vec<u32>, Generation, bool)> = Vec::new();
        let settle = |running: &mut Vec<(Vec<u32>, Generation, bool)>| {
            for (prompt, generation, cancelled) in running.drain(..) {
                let whole = collect(generation);
                let expected = answer(&prompt, 6);
                if cancelled {
                    assert!(expected.starts_with(&whole.ids));
                } else {
                    assert_eq!(whole.ids, expected, "{} of {} tokens reused", whole.finished.usage.reused_tokens, prompt.len());
                }
            }
        };
        for action in actions {
            let prompt = match action {
                Action::Begin(seed, len) => Some([&systems[seed as usize % 2][..], &text(seed, len)[..]].concat()),
                Action::Continue(which, len) if !prompts.is_empty() => {
                    let before = &prompts[which % prompts.len()];
                    Some([&before[..], &answer(before, 6)[..], &text(which as u32 % 5, len)[..]].concat())
                }
                Action::Again(which) if !prompts.is_empty() => Some(prompts[which % prompts.len()].clone()),
                Action::Cancel(which) if !running.is_empty() => {
                    let which = which % running.len();
                    running[which].1.cancel();
                    running[which].2 = true;
                    None
                }
                Action::Collect => {
                    settle(&mut running);
                    if let Some(budget) = options.kv_ram {
                        let stats = process.0.kv_stats();
                        prop_assert!(stats.bytes() <= budget, "{:?}", stats);
                    }
                    None
                }
                Action::Restart => {
                    settle(&mut running);
                    process.0.shut_down();
                    drop(process);
                    process = start();
                    None
                }
                _ => None,
            };
            if let Some(prompt) = prompt.filter(|prompt| prompt.len() < most) {
                let snapshots = if prompt.len() > 300 { vec![300] } else { Vec::new() };
                let session = Some(format!("{}", prompt.len() % 3));
                let request = Request { snapshots, session, ..greedy(&prompt, 6) };
                running.push((prompt.clone(), process.0.submit(request).expect("accepted"), false));
                prompts.push(prompt);
            }
        }
        settle(&mut running);
    }
}

#[test]
fn the_state_of_the_hashed_backend_matters() {
    // Otherwise the tests above would prove nothing.
    let damaged = |damage: &dyn Fn(&mut ds4_model::Sequence)| {
        use ds4_model::rows::Wanted;
        use ds4_model::{Backend, Buffer, Rows, forward};
        let mut backend = HashedBackend::new();
        let mut logits = Vec::new();
        for spoil in [false, true] {
            let mut sequence = backend.new_sequence();
            let mut rows = Rows::new();
            rows.push(0, 0, &text(1, 260), Wanted::None);
            forward(&mut backend, &rows, &mut [&mut sequence]).expect("a backend");
            if spoil {
                damage(&mut sequence);
            }
            let mut tokens = Vec::new();
            for token in 0..8 {
                let mut rows = Rows::new();
                rows.push(0, 260 + token, &[5], Wanted::Last);
                forward(&mut backend, &rows, &mut [&mut sequence]).expect("a backend");
                tokens.push(backend.read(Buffer::Logits).expect("logits"));
            }
            logits.push(tokens);
        }
        logits[0] != logits[1]
    };
    use ds4_model::state::Compressor;
    let layers = support::model().config().ratios.clone();
    let compressed = layers.iter().position(|&ratio| ratio == 4).expect("a layer");
    assert!(damaged(&|state| (0..60).for_each(|row| state.compressed_row_mut(compressed, row).fill(1))));
    assert!(damaged(&|state| (133..260).for_each(|p| state.window_row_mut(0, p).fill(1))));
    assert!(damaged(&|state| state.frontier_mut(compressed, Compressor::Attention)[0] = 1.0));
    assert!(!damaged(&|_| ()));
}
