//! One generation at a time: its events, its text, and everything that can end it.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ds4_chat::special::Special;
use ds4_engine::sampling::{Directive, Flow, Guide, SamplingParams, TokenMask};
use ds4_engine::{
    Engine, EngineError, EngineOptions, Event, FinishReason, GenerationError, Prefill, Request, Started, Usage,
};
use ds4_model::Backend;
use support::mock::{Control, Noted, greedy_answer, mock_backend};
use support::{Forced, collect, tokenizer};

fn engine(options: EngineOptions) -> (Engine, Arc<Control>) {
    let (backend, control) = mock_backend();
    (Engine::start(backend, tokenizer(), options).expect("valid options"), control)
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Request {
    Request { max_tokens: Some(max_tokens), sampling: SamplingParams::greedy(), ..Request::new(prompt.to_vec()) }
}

/// A generation that says `text`, and then whatever.
fn saying(text: &str, stops: &[&str]) -> Request {
    Request {
        guide: Forced::boxed(tokenizer().encode(text)),
        stop_sequences: stops.iter().map(|&stop| stop.to_owned()).collect(),
        ..greedy(&[1, 2, 3], tokenizer().encode(text).len())
    }
}

/// Speeds were once those of the receiver: an answer that had been there for long gave millions of tokens per second.
#[test]
fn events_that_are_taken_late_tell_when_they_were_sent() {
    let (engine, _) = engine(EngineOptions::default());
    let submitted = Instant::now();
    let mut generation = engine.submit(greedy(&[10, 11, 12], 4)).expect("accepted");
    while engine.kv_stats().misses == 0 || engine.kv_stats().running > 0 {
        std::thread::yield_now();
    }
    let over = Instant::now();
    let mut times = vec![submitted];
    while let Some(event) = generation.next() {
        // The last event comes after the counters.
        if !matches!(event, Event::Finished(_)) {
            times.push(generation.sent());
        }
    }
    times.push(over);
    assert!(times.len() > 6 && times.is_sorted(), "{times:?}");
}

#[test]
fn a_prompt_alone_is_computed_in_steps_that_suit_the_backend() {
    let (engine, _) = engine(EngineOptions { retain: 0, ..EngineOptions::default() });
    let rows = mock_backend().0.prefill_rows();
    let prompt: Vec<u32> = (0..2 * rows + 1).map(|i| 10 + (i % 50) as u32).collect();
    let whole = collect(engine.submit(greedy(&prompt, 1)).expect("accepted"));
    assert_eq!(whole.prefills.iter().map(|step| step.done).collect::<Vec<_>>(), [rows, 2 * rows, 2 * rows + 1]);
}

#[test]
fn events_tell_the_whole_story() {
    let (engine, control) = engine(EngineOptions { prefill_chunk: Some(3), retain: 0, ..EngineOptions::default() });
    let prompt = [10, 11, 12, 13, 14, 15, 16];
    let mut request = greedy(&prompt, 4);
    request.sampling.seed = Some(42);
    let whole = collect(engine.submit(request).expect("accepted"));

    let started = Started { seed: 42, prompt_tokens: 7, reused_tokens: 0, max_tokens: 4 };
    assert_eq!(whole.started, Some(started));
    assert_eq!(whole.prefills, [3, 6, 7].map(|done| Prefill { done, total: 7, reused: 0 }));
    let answer = greedy_answer(&prompt, 4);
    assert_eq!(whole.ids, answer);
    assert!(matches!(whole.finished.reason, FinishReason::Length), "{:?}", whole.finished.reason);
    assert_eq!(whole.finished.usage, Usage { prompt_tokens: 7, reused_tokens: 0, completion_tokens: 4 });
    assert!(whole.logprobs.iter().all(Option::is_none));

    // Logits where a token is sampled and nowhere else; the last token is not computed, for nothing follows it.
    let span = |first_position, tokens: &[u32], wanted| vec![Noted { first_position, tokens: tokens.to_vec(), wanted }];
    let expected = [
        span(0, &prompt[..3], false),
        span(3, &prompt[3..6], false),
        span(6, &prompt[6..], true),
        span(7, &answer[..1], true),
        span(8, &answer[1..2], true),
        span(9, &answer[2..3], true),
    ];
    assert_eq!(control.batches(), expected);
}

#[test]
fn the_context_limits_the_answer() {
    let (engine, _) = engine(EngineOptions { ctx: Some(20), ..EngineOptions::default() });
    assert_eq!(engine.context(), 20);
    let mut request = greedy(&[1; 15], 100);
    assert_eq!(collect(engine.submit(request).expect("accepted")).ids.len(), 5);
    request = Request { max_tokens: None, ..greedy(&[1; 19], 1) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!(whole.ids.len(), 1);
    assert!(matches!(whole.finished.reason, FinishReason::Length));
    request = Request { context: Some(17), ..greedy(&[1; 15], 100) };
    assert_eq!(collect(engine.submit(request).expect("accepted")).ids.len(), 2);
    request = Request { context: Some(1000), ..greedy(&[1; 15], 100) };
    assert_eq!(collect(engine.submit(request).expect("accepted")).ids.len(), 5, "a request cannot raise the limit");
}

#[test]
fn what_cannot_be_generated_is_refused_in_a_sentence() {
    let (engine, control) = engine(EngineOptions { ctx: Some(20), ..EngineOptions::default() });
    let default = || greedy(&[1, 2], 5);
    let sampling = SamplingParams { temperature: 3.0, ..SamplingParams::default() };
    let cases = [
        (greedy(&[], 5), "the prompt is empty"),
        (greedy(&[1; 20], 5), "the prompt has 20 tokens, but the context holds 20"),
        (Request { context: Some(2), ..default() }, "the prompt has 2 tokens, but the context holds 2"),
        (greedy(&[1, 512], 5), "token 1 of the prompt (counted from 0) has id 512, but the model's vocabulary has 512"),
        (greedy(&[1], 0), "max_tokens is 0"),
        (Request { snapshots: vec![1, 3], ..default() }, "a snapshot after 3 tokens is impossible: the prompt has 2"),
        (Request { snapshots: vec![0], ..default() }, "a snapshot after 0 tokens is impossible"),
        (Request { sampling, ..default() }, "temperature is 3"),
        (Request { stop_sequences: vec![String::new()], ..default() }, "stop sequence 0 (counted from 0) is empty"),
    ];
    for (request, expected) in cases {
        let message = engine.submit(request).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    }
    assert!(control.batches().is_empty());
    assert_eq!(collect(engine.submit(default()).expect("accepted")).ids.len(), 5, "a refusal takes no place");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let default = EngineOptions::default;
    let cases = [
        (EngineOptions { parallel: 0, ..default() }, "engine option parallel is 0; it must be at least 1"),
        (EngineOptions { prefill_chunk: Some(0), ..default() }, "prefill_chunk"),
        (EngineOptions { event_buffer: 0, ..default() }, "event_buffer"),
        (EngineOptions { ctx: Some(1), ..default() }, "engine option ctx is 1; it must be from 2 to"),
        (EngineOptions { ctx: Some(usize::MAX), ..default() }, "the context length of the model"),
    ];
    for (options, expected) in cases {
        let message = Engine::start(mock_backend().0, tokenizer(), options).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    }
}

#[test]
fn stop_sequences_span_tokens_and_are_not_shown() {
    let (engine, _) = engine(EngineOptions::default());
    let whole = collect(engine.submit(saying("Good day.\nEND of it", &["\nEND", "it"])).expect("accepted"));
    assert_eq!(whole.text(), "Good day.");
    assert!(matches!(&whole.finished.reason, FinishReason::StopSequence(stop) if stop == "\nEND"));
    assert_eq!(whole.ids.len(), tokenizer().encode("Good day.\nEND").len(), "it ends with the match");
    assert_eq!(whole.finished.text, "");

    let open = collect(engine.submit(saying("Good day.\nEN", &["\nEND"])).expect("accepted"));
    assert!(matches!(open.finished.reason, FinishReason::Length));
    assert_eq!(open.finished.text, "\nEN", "what was held back comes with the end");
    assert_eq!(open.text(), "Good day.\nEN");

    let wide = collect(engine.submit(saying("aé€𝔘b", &["€𝔘"])).expect("accepted"));
    assert_eq!(wide.text(), "aé");
}

#[test]
fn text_is_whole_characters_whatever_the_tokens_cut() {
    let (engine, _) = engine(EngineOptions::default());
    let whole = collect(engine.submit(saying("a𝔘", &[])).expect("accepted"));
    assert_eq!(whole.texts, ["a", "", "", "", "𝔘", ""]);
    let mut tokens = tokenizer().encode("𝔘");
    tokens.pop();
    let cut = Request { guide: Forced::boxed(tokens), ..greedy(&[1], 3) };
    let whole = collect(engine.submit(cut).expect("accepted"));
    assert_eq!(whole.texts, ["", "", "", "\u{fffd}"]);
}

#[test]
fn control_tokens_have_an_id_and_no_text() {
    let (engine, _) = engine(EngineOptions::default());
    let think = tokenizer().special(Special::EndThink).expect("in every vocabulary");
    let tokens = [tokenizer().encode("a"), vec![think], tokenizer().encode("b</think>")].concat();
    let request = Request { guide: Forced::boxed(tokens.clone()), ..greedy(&[1], tokens.len()) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!(whole.ids, tokens);
    assert_eq!(whole.text(), "ab</think>");
}

#[test]
fn stop_tokens_and_guides_end_the_answer() {
    let (engine, _) = engine(EngineOptions::default());
    let tokens = tokenizer().encode("abc");
    let guide = Forced::boxed(tokens.clone());
    let request = Request { guide, stop_tokens: vec![500, tokens[1]], ..greedy(&[1], 10) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!(
        (whole.ids.as_slice(), whole.text().as_str()),
        (&tokens[..2], "a"),
        "a stop token is counted, not shown"
    );
    assert!(matches!(whole.finished.reason, FinishReason::Stop));

    let request = Request { guide: Forced::then_stop(tokens.clone()), ..greedy(&[1], 10) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!((whole.ids, whole.texts.concat()), (tokens, "abc".to_owned()));
    assert!(matches!(whole.finished.reason, FinishReason::Stop));
}

/// Allows the letters of a mask, in turn with a ban on what came last.
struct Alternating {
    mask: TokenMask,
    banned: Vec<u32>,
}

impl Guide for Alternating {
    fn directive(&mut self) -> Directive<'_> {
        Directive { allowed: Some(&self.mask), banned: &self.banned, ..Directive::default() }
    }

    fn accept(&mut self, token: u32) -> Flow {
        self.banned = vec![token];
        Flow::Continue
    }
}

#[test]
fn a_guide_constrains_every_token() {
    let (engine, _) = engine(EngineOptions::default());
    let mut mask = TokenMask::none(512);
    mask.allow(70).allow(71);
    let guide = |mask: &TokenMask| -> Option<Box<dyn Guide>> {
        Some(Box::new(Alternating { mask: mask.clone(), banned: vec![71] }))
    };
    let request = Request { guide: guide(&mask), sampling: SamplingParams::default(), ..greedy(&[1], 6) };
    assert_eq!(collect(engine.submit(request).expect("accepted")).ids, [70, 71, 70, 71, 70, 71]);

    mask.forbid(71);
    let request = Request { guide: guide(&mask), ..greedy(&[1], 6) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!(whole.ids, [70]);
    let FinishReason::Error(error @ GenerationError::Sampling(_)) = &whole.finished.reason else {
        panic!("{:?}", whole.finished.reason);
    };
    assert!(error.to_string().starts_with("no token may come next"), "{error}");
    assert_eq!(
        collect(engine.submit(greedy(&[1], 3)).expect("accepted")).ids,
        greedy_answer(&[1], 3),
        "only it failed"
    );
}

#[test]
fn a_drawn_seed_is_reported_and_repeats_the_answer() {
    let (engine, _) = engine(EngineOptions::default());
    let request = |seed| {
        let sampling = SamplingParams { seed, min_p: 0.0, temperature: 2.0, ..SamplingParams::default() };
        Request { sampling, ..greedy(&[4, 5], 30) }
    };
    let first = collect(engine.submit(request(None)).expect("accepted"));
    let seed = first.started.expect("started").seed;
    let again = collect(engine.submit(request(Some(seed))).expect("accepted"));
    assert_eq!(again.started.expect("started").seed, seed);
    assert_eq!(again.ids, first.ids);
    let other = collect(engine.submit(request(None)).expect("accepted"));
    assert_ne!(other.ids, first.ids);
}

#[test]
fn cancelling_during_prefill_keeps_what_is_computed() {
    let (engine, control) = engine(EngineOptions { prefill_chunk: Some(4), ..EngineOptions::default() });
    control.allow(1);
    let prompt: Vec<u32> = (0..20).collect();
    let generation = engine.submit(greedy(&prompt, 5)).expect("accepted");
    control.wait_for_step(2);
    generation.cancel();
    control.open();
    let whole = collect(generation);
    assert!(matches!(whole.finished.reason, FinishReason::Cancelled));
    assert_eq!(whole.prefills.len(), 2, "it ends with the step that was running");
    assert_eq!(control.batches().len(), 2);

    let whole = collect(engine.submit(greedy(&prompt, 5)).expect("accepted"));
    assert_eq!(whole.finished.usage, Usage { prompt_tokens: 20, reused_tokens: 8, completion_tokens: 5 });
    assert_eq!(whole.prefills[0], Prefill { done: 12, total: 20, reused: 8 });
    assert_eq!(whole.ids, greedy_answer(&prompt, 5));
}

#[test]
fn the_next_turn_continues_the_state_of_the_last() {
    let (engine, control) = engine(EngineOptions::default());
    let first = collect(engine.submit(greedy(&[1, 2, 3], 6)).expect("accepted"));
    let mut prompt = [&[1, 2, 3], first.ids.as_slice()].concat();
    prompt.extend([50, 51]);
    let second = collect(engine.submit(greedy(&prompt, 4)).expect("accepted"));
    // The last sampled token was never computed.
    assert_eq!(second.started.expect("started").reused_tokens, 8);
    assert_eq!(second.finished.usage.reused_tokens, 8);
    assert_eq!(second.ids, greedy_answer(&prompt, 4));
    let spans: Vec<Noted> = control.batches().into_iter().flatten().collect();
    assert!(spans.contains(&Noted { first_position: 8, tokens: prompt[8..].to_vec(), wanted: true }));
}

#[test]
fn a_prompt_that_branches_off_at_a_snapshot_continues_it() {
    let (engine, control) = engine(EngineOptions { retain: 8, prefill_chunk: Some(4), ..EngineOptions::default() });
    let prompt: Vec<u32> = (0..12).collect();
    let request = Request { snapshots: vec![10, 3], ..greedy(&prompt, 4) };
    let whole = collect(engine.submit(request).expect("accepted"));
    assert_eq!(whole.ids, greedy_answer(&prompt, 4));
    // Steps end at the snapshots; between them the budget decides.
    let steps = |control: &Control| -> Vec<usize> {
        let batches = control.batches();
        batches.iter().map(|batch| batch[0].tokens.len()).collect()
    };
    assert_eq!(steps(&control)[..4], [3, 4, 3, 2]);

    for (other, reused) in [(10, 10), (3, 3), (2, 0)] {
        let mut branch = prompt[..other].to_vec();
        branch.extend([70, 71, 72]);
        let whole = collect(engine.submit(greedy(&branch, 4)).expect("accepted"));
        assert_eq!(whole.finished.usage.reused_tokens, reused);
        assert_eq!(whole.ids, greedy_answer(&branch, 4));
    }
}

#[test]
fn a_deadline_ends_what_runs_and_what_waits() {
    let (engine, control) = engine(EngineOptions::default());
    control.allow(3);
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let running = engine.submit(Request { deadline, ..greedy(&[1], 100) }).expect("accepted");
    let waiting = engine.submit(Request { deadline, ..greedy(&[2], 100) }).expect("accepted");
    let late = Request { deadline: Some(Instant::now()), ..greedy(&[3], 100) };
    let late = engine.submit(late).expect("accepted");
    control.wait_for_step(4);
    std::thread::sleep(Duration::from_millis(310));
    control.open();
    let running = collect(running);
    assert!(matches!(running.finished.reason, FinishReason::Deadline));
    assert_eq!(running.ids, greedy_answer(&[1], 4));
    for never in [waiting, late] {
        let never = collect(never);
        assert!(matches!(never.finished.reason, FinishReason::Deadline));
        assert!(never.started.is_none());
    }
}

#[test]
fn submitting_to_a_stopped_engine_says_so() {
    let (engine, control) = engine(EngineOptions::default());
    control.allow(2);
    let running = engine.submit(greedy(&[1], 100)).expect("accepted");
    let waiting = engine.submit(greedy(&[2], 100)).expect("accepted");
    control.wait_for_step(3);
    let stopper = std::thread::spawn({
        let engine = engine.clone();
        move || engine.shut_down()
    });
    // A request that still gets in is dropped, which cancels it.
    while !matches!(engine.submit(greedy(&[9], 1)), Err(EngineError::Stopped { .. })) {
        std::thread::yield_now();
    }
    control.open();
    stopper.join().expect("no panic");
    assert!(matches!(collect(running).finished.reason, FinishReason::Cancelled));
    assert!(matches!(collect(waiting).finished.reason, FinishReason::Cancelled));
    let message = engine.submit(greedy(&[1], 1)).expect_err("stopped").to_string();
    assert_eq!(message, "the engine takes no more requests: it was shut down");
    engine.shut_down();
}

#[test]
fn an_abandoned_engine_finishes_what_it_accepted() {
    let (engine, control) = engine(EngineOptions::default());
    control.allow(0);
    let first = engine.submit(greedy(&[1], 5)).expect("accepted");
    let second = engine.submit(greedy(&[2], 5)).expect("accepted");
    drop(engine);
    control.open();
    assert_eq!(collect(first).ids, greedy_answer(&[1], 5));
    assert_eq!(collect(second).ids, greedy_answer(&[2], 5));
}
