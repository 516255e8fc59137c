//! A real model behind the engine: the golden vectors come out, and the same bits whatever else happens.

mod support;

use ds4_engine::sampling::{SamplingParams, TokenLogprobs};
use ds4_engine::{Engine, EngineOptions, Request};
use ds4_model::KvPrecision;
use ds4_model::reference::ReferenceBackend;
use support::{Whole, collect, model, tokenizer};

fn engine(precision: KvPrecision, options: EngineOptions) -> Engine {
    Engine::start(ReferenceBackend::new(model(), precision), tokenizer(), options).expect("valid options")
}

fn golden_tokens(len: usize) -> Vec<u32> {
    let all = ds4_testdata::json("tiny/tokens.json");
    let list = all["s"][len.to_string()].as_array().expect("a token list");
    list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn greedy_sampling_takes_the_largest_golden_logit() {
    let engine = engine(KvPrecision::Exact, EngineOptions { retain: 0, ..EngineOptions::default() });
    for len in [1, 5, 40, 300] {
        let golden = ds4_testdata::npy_f32(&format!("tiny/golden/s-f16/plain/logits_{len}.npy"));
        let row = &golden.data[(len - 1) * golden.shape[1]..];
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let expected = row.iter().position(|&logit| logit == max).expect("a maximum") as u32;
        let log_sum = row.iter().map(|&logit| f64::from(logit - max).exp()).sum::<f64>().ln();

        let sampling = SamplingParams { logprobs: Some(1), ..SamplingParams::greedy() };
        let request = Request { max_tokens: Some(1), sampling, ..Request::new(golden_tokens(len)) };
        let whole = collect(engine.submit(request).expect("accepted"));
        assert_eq!(whole.ids, [expected], "{len} tokens");
        let logprobs = whole.logprobs[0].as_ref().expect("asked for");
        assert!((f64::from(logprobs.logprob) + log_sum).abs() < 2e-3, "{len} tokens: {}", logprobs.logprob);
        assert_eq!(logprobs.top[0].token, expected);
    }
}

/// Requests of different length and sampling, by number.
fn request(number: usize) -> Request {
    let tokens = golden_tokens(300);
    let (first, len, max_tokens) = [(0, 40, 12), (0, 131, 6), (100, 5, 20), (57, 1, 9)][number];
    let sampling = SamplingParams {
        temperature: [0.0, 1.0, 1.5, 0.7][number],
        min_p: [0.05, 0.0, 0.02, 0.0][number],
        top_p: [1.0, 0.95, 1.0, 0.9][number],
        frequency_penalty: [0.0, 0.0, 0.5, 0.0][number],
        seed: Some(number as u64),
        logprobs: Some(3),
        ..SamplingParams::default()
    };
    Request { max_tokens: Some(max_tokens), sampling, ..Request::new(tokens[first..][..len].to_vec()) }
}

/// What must not change, as numbers: tokens, and log-probabilities to the last bit.
fn bits(whole: &Whole) -> Vec<u32> {
    let mut bits = whole.ids.clone();
    for logprobs in &whole.logprobs {
        let TokenLogprobs { logprob, top } = logprobs.as_ref().expect("asked for");
        bits.push(logprob.to_bits());
        bits.extend(top.iter().flat_map(|top| [top.token, top.logprob.to_bits()]));
    }
    bits
}

#[test]
fn company_and_chunk_size_do_not_change_a_bit() {
    let alone = engine(KvPrecision::Model, EngineOptions { retain: 0, ..EngineOptions::default() });
    let expected: Vec<_> =
        (0..4).map(|number| bits(&collect(alone.submit(request(number)).expect("accepted")))).collect();
    for (parallel, prefill_chunk) in [(1, 3), (4, 1), (4, 3), (4, 127), (2, 512)] {
        let options =
            EngineOptions { parallel, prefill_chunk: Some(prefill_chunk), retain: 0, ..EngineOptions::default() };
        let together = engine(KvPrecision::Model, options);
        let running: Vec<_> = (0..4).map(|number| together.submit(request(number)).expect("accepted")).collect();
        for (number, generation) in running.into_iter().enumerate() {
            let found = bits(&collect(generation));
            assert_eq!(found, expected[number], "request {number}, {parallel} parallel, chunks of {prefill_chunk}");
        }
    }
}

#[test]
fn reuse_does_not_change_a_bit() {
    // Turns of 37 prompt tokens and 5 sampled ones: states end inside windows of both ratios.
    let conversation = |retain: usize| -> Vec<(Whole, usize)> {
        let engine = engine(KvPrecision::Model, EngineOptions { retain, ..EngineOptions::default() });
        let mut prompt = Vec::new();
        let turn = |turn: usize| {
            prompt.extend_from_slice(&golden_tokens(300)[turn * 37..][..37]);
            let request = Request { max_tokens: Some(5), prompt: prompt.clone(), ..request(1) };
            let whole = collect(engine.submit(request).expect("accepted"));
            prompt.extend_from_slice(&whole.ids);
            let reused = whole.finished.usage.reused_tokens;
            (whole, reused)
        };
        (0..4).map(turn).collect()
    };
    let (cold, warm) = (conversation(0), conversation(1));
    for (turn, (cold, warm)) in cold.iter().zip(&warm).enumerate() {
        assert_eq!(bits(&cold.0), bits(&warm.0), "turn {turn}");
        assert_eq!(cold.1, 0);
        // All of the turns before but the last token, which was sampled and never computed.
        assert_eq!(warm.1, (turn * 42).saturating_sub(1));
    }
}
