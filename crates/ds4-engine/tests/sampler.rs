//! The sampler, seen from outside: which token it takes, how often, and what it says when there is none.

use std::collections::BTreeMap;

use ds4_engine::sampling::{Directive, SampleError, Sampled, Sampler, SamplingParams, TokenMask};
use ds4_model::logits::{Digest, MOST_BANNED};
use proptest::prelude::*;

const FREE: Directive<'static> = Directive { forced: None, allowed: None, banned: &[], greedy: false };

fn sampler(params: &SamplingParams) -> Sampler {
    params.validate(1 << 20).expect("valid parameters");
    Sampler::new(params, &[], 7)
}

/// Plain sampling: nothing cut.
fn plain() -> SamplingParams {
    SamplingParams { min_p: 0.0, ..SamplingParams::default() }
}

fn one(params: &SamplingParams, logits: &[f32], directive: &Directive<'_>) -> Result<u32, SampleError> {
    sampler(params).sample(logits, directive).map(|sampled| sampled.token)
}

/// How often each token comes in `draws` draws.
fn frequencies(params: &SamplingParams, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(params);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        let token = sampler.sample(logits, &FREE).expect("a token").token;
        counts[token as usize] += 1.0 / draws as f64;
    }
    counts
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x.exp() / sum).collect()
}

#[test]
fn greedy_takes_the_largest_and_of_equal_ones_the_lowest_id() {
    let greedy = SamplingParams::greedy();
    assert_eq!(one(&greedy, &[0.5, 2.0, -1.0, 2.0], &FREE), Ok(1));
    assert_eq!(one(&greedy, &[-0.0, 0.0], &FREE), Ok(0));
    assert_eq!(one(&greedy, &[f32::NEG_INFINITY, -1e30], &FREE), Ok(1));
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let logits = [0.0, 1.0, 2.0, -1.0, 0.5];
    for temperature in [0.5_f32, 1.0, 1.7] {
        let params = SamplingParams { temperature, ..plain() };
        let expected = softmax(&logits.map(|x| f64::from(x) / f64::from(temperature)));
        let found = frequencies(&params, &logits, 20_000);
        for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Four standard deviations.
            let bound = 4.0 * (expected * (1.0 - expected) / 20_000.0).sqrt();
            assert!((found - expected).abs() < bound, "token {token} at {temperature}: {found}, expected {expected}");
        }
    }
}

#[test]
fn truncations_cut_and_the_rest_keeps_its_proportions() {
    // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
    let logits = [8.0_f32, 4.0, 2.0, 1.0, 1.0].map(f32::ln);
    let expect = |params: SamplingParams, expected: &[f64]| {
        let found = frequencies(&params, &logits, 10_000);
        for (token, found) in found.iter().enumerate() {
            let expected = expected.get(token).copied().unwrap_or(0.0);
            assert!((found - expected).abs() < 0.02, "{params:?}: token {token} came {found}, expected {expected}");
            assert!(expected > 0.0 || *found == 0.0, "{params:?}: token {token} must not come");
        }
    };
    expect(SamplingParams { top_k: 2, ..plain() }, &[2.0 / 3.0, 1.0 / 3.0]);
    expect(SamplingParams { top_k: 1, ..plain() }, &[1.0]);
    // The one that crosses the share belongs to it.
    expect(SamplingParams { top_p: 0.6, ..plain() }, &[2.0 / 3.0, 1.0 / 3.0]);
    expect(SamplingParams { top_p: 0.01, ..plain() }, &[1.0]);
    expect(SamplingParams { min_p: 0.2, ..plain() }, &[4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]);
    expect(SamplingParams { min_p: 1.0, ..plain() }, &[1.0]);
    // Top-p is a share of what top-k left: of 0.5 + 0.25, the first is 2/3.
    expect(SamplingParams { top_k: 2, top_p: 0.65, ..plain() }, &[1.0]);
    expect(SamplingParams { top_k: 2, top_p: 0.67, ..plain() }, &[2.0 / 3.0, 1.0 / 3.0]);
    // But not of what min-p left: 0.75 of everything is two tokens, of the three that min-p keeps it would be two, of 0.8 three.
    expect(SamplingParams { top_p: 0.74, min_p: 0.2, ..plain() }, &[2.0 / 3.0, 1.0 / 3.0]);
    // Temperature comes first: at 2 the proportions are 1 : 0.71 : 0.5 : 0.35 : 0.35.
    let at_two = SamplingParams { temperature: 2.0, min_p: 0.6, ..plain() };
    expect(at_two, &[0.586, 0.414]);
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_way_the_candidates_are_found() {
    let logits: Vec<f32> = (0..300_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 5e6).collect();
    let tokens = |params: SamplingParams| -> Vec<u32> {
        let mut sampler = sampler(&params);
        (0..200).map(|_| sampler.sample(&logits, &FREE).expect("a token").token).collect()
    };
    let all = tokens(SamplingParams { seed: Some(3), ..plain() });
    assert_eq!(all, tokens(SamplingParams { seed: Some(3), ..plain() }));
    assert_ne!(all, tokens(SamplingParams { seed: Some(4), ..plain() }));
    // Limits that cut nothing take other paths to the same candidates.
    assert_eq!(all, tokens(SamplingParams { seed: Some(3), top_k: 300, ..plain() }));
    assert_eq!(all, tokens(SamplingParams { seed: Some(3), min_p: 1e-30, ..plain() }));
    let almost_all = tokens(SamplingParams { seed: Some(3), top_p: 1.0 - f32::EPSILON, ..plain() });
    let same = all.iter().zip(&almost_all).filter(|(a, b)| a == b).count();
    assert!(same >= 198, "{same} of 200");
}

#[test]
fn a_step_takes_one_random_number_whether_it_draws_or_not() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 3.0).collect();
    let params = SamplingParams { seed: Some(11), ..plain() };
    let (mut free, mut guided) = (sampler(&params), sampler(&params));
    for step in 0..40 {
        let expected = free.sample(&logits, &FREE).expect("a token").token;
        let directive = match step % 4 {
            0 => Directive { greedy: true, ..FREE },
            1 => Directive { forced: Some(step), ..FREE },
            _ => FREE,
        };
        let token = guided.sample(&logits, &directive).expect("a token").token;
        match step % 4 {
            0 => assert_eq!(token, 6),
            1 => assert_eq!(token, step),
            _ => assert_eq!(token, expected),
        }
    }
}

#[test]
fn directives_mask_ban_and_force() {
    let logits = [5.0, 4.0, 3.0, 2.0];
    let greedy = SamplingParams::greedy();
    let mut mask = TokenMask::none(4);
    mask.allow(2).allow(3);
    let masked = Directive { allowed: Some(&mask), ..FREE };
    assert_eq!(one(&greedy, &logits, &masked), Ok(2));
    assert_eq!(one(&greedy, &logits, &Directive { banned: &[0, 1], ..FREE }), Ok(2));
    assert_eq!(one(&greedy, &logits, &Directive { banned: &[2, 99], ..masked }), Ok(3));
    assert_eq!(one(&greedy, &logits, &Directive { forced: Some(1), banned: &[1], ..masked }), Ok(1));
    let hot = SamplingParams { temperature: 2.0, ..plain() };
    assert_eq!(one(&hot, &logits, &Directive { greedy: true, ..FREE }), Ok(0));
    for _ in 0..50 {
        assert!(one(&hot, &logits, &masked).expect("a token") >= 2);
    }
}

#[test]
fn where_no_token_is_left_the_error_says_why() {
    let params = plain();
    let none = TokenMask::none(3);
    let directive = Directive { allowed: Some(&none), ..FREE };
    assert_eq!(one(&params, &[1.0; 3], &directive), Err(SampleError::NothingAllowed { n_vocab: 3 }));
    let banned = Directive { banned: &[0, 1, 2], ..FREE };
    assert_eq!(one(&params, &[1.0; 3], &banned), Err(SampleError::NothingAllowed { n_vocab: 3 }));
    let forced = Directive { forced: Some(3), ..FREE };
    assert_eq!(one(&params, &[1.0; 3], &forced), Err(SampleError::ForcedToken { token: 3, n_vocab: 3 }));
    for logits in [vec![], vec![f32::NAN; 3], vec![f32::NEG_INFINITY, f32::NAN]] {
        let expected = SampleError::NoLogits { n_vocab: logits.len() };
        assert_eq!(one(&params, &logits, &FREE), Err(expected));
    }
}

#[test]
fn bias_is_added_to_the_logits() {
    let bias = |token, bias| SamplingParams { logit_bias: BTreeMap::from([(token, bias)]), ..SamplingParams::greedy() };
    assert_eq!(one(&bias(1, 100.0), &[5.0, -90.0, 0.0], &FREE), Ok(1));
    assert_eq!(one(&bias(0, -5.5), &[5.0, 0.0, -1.0], &FREE), Ok(1));
}

#[test]
fn penalties_follow_the_answer() {
    let params = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(&params, &[0, 0, 0], 0);
    let tokens: Vec<u32> = (0..5).map(|_| sampler.sample(&[2.5, 1.0, 0.2], &FREE).expect("a token").token).collect();
    // 2.5, 1.5, then 0.5 loses to 1.0; then 0.5 to 0.2; then both others are worse than -0.0.
    assert_eq!(tokens, [0, 0, 1, 0, 2]);
    let repetition = SamplingParams { repetition_penalty: 1.5, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(&repetition, &[0], 0);
    assert_eq!(sampler.sample(&[1.2, 1.0], &FREE).expect("a token").token, 1);
}

#[test]
fn logprobs_are_the_models_own_distribution() {
    let logits = [1.0_f32, 3.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NAN];
    let finite = softmax(&[1.0, 3.0, 2.0, 3.0]);
    let params = SamplingParams {
        logprobs: Some(5),
        temperature: 0.0,
        logit_bias: BTreeMap::from([(0, 50.0)]),
        frequency_penalty: 1.0,
        ..SamplingParams::default()
    };
    let sampled = sampler(&params).sample(&logits, &FREE).expect("a token");
    assert_eq!(sampled.token, 0);
    let logprobs = sampled.logprobs.expect("log-probabilities");
    assert!((f64::from(logprobs.logprob) - finite[0].ln()).abs() < 1e-6);
    let ids: Vec<u32> = logprobs.top.iter().map(|top| top.token).collect();
    assert_eq!(ids, [1, 3, 2, 0, 4]);
    for top in &logprobs.top[..4] {
        assert!((f64::from(top.logprob) - finite[top.token as usize].ln()).abs() < 1e-6);
    }
    assert_eq!(logprobs.top[4].logprob, f32::NEG_INFINITY);

    let only_chosen = SamplingParams { logprobs: Some(0), ..params.clone() };
    assert_eq!(sampler(&only_chosen).sample(&logits, &FREE).expect("a token").logprobs.expect("one").top, []);
    let silent = SamplingParams { logprobs: None, ..params };
    assert_eq!(sampler(&silent).sample(&logits, &FREE).expect("a token").logprobs, None);
}

/// What a sampler takes that sees the row only through its digest; `None` if it asks for the row.
fn from_digest(sampler: &mut Sampler, logits: &[f32], directive: &Directive<'_>) -> Option<Sampled> {
    let request = sampler.digest_request(0, directive)?;
    let digest = Digest::of(logits, &request);
    sampler
        .sample_from(&digest, directive, logits.len(), |tokens| {
            assert!(tokens.len() <= 256, "a part of the row, not {tokens:?}");
            Ok(logits[tokens].to_vec())
        })
        .expect("a row that can be read")
}

#[test]
fn usual_parameters_and_logits_need_digests_only() {
    // As sharp as a model's usually are.
    let logits: Vec<f32> =
        (0..129_280_u32).map(|i| -3.0 * f32::ln(1.0 + (i.wrapping_mul(2_654_435_761) >> 12) as f32 / 8.0)).collect();
    let usual = [
        SamplingParams::default(),
        SamplingParams::greedy(),
        plain(),
        SamplingParams { top_p: 0.95, temperature: 0.6, ..plain() },
        SamplingParams { top_k: 40, top_p: 0.9, ..plain() },
    ];
    for params in usual {
        let (mut sampler, mut whole) = (sampler(&params), sampler(&params));
        for step in 0..20 {
            let directive = Directive { banned: if step % 2 == 0 { &[] } else { &[0, 77] }, ..FREE };
            let found = from_digest(&mut sampler, &logits, &directive);
            assert_eq!(found, whole.sample(&logits, &directive).ok(), "{params:?}, step {step}");
        }
    }
}

#[test]
fn what_a_digest_cannot_know_asks_for_the_row() {
    let none =
        |params: &SamplingParams, directive: &Directive<'_>| sampler(params).digest_request(0, directive).is_none();
    let mask = TokenMask::none(4);
    assert!(none(&plain(), &Directive { allowed: Some(&mask), ..FREE }));
    assert!(none(&plain(), &Directive { forced: Some(1), ..FREE }));
    assert!(none(&plain(), &Directive { banned: &[1; MOST_BANNED + 1], ..FREE }));
    assert!(none(&SamplingParams { logprobs: Some(0), ..plain() }, &FREE));
    assert!(none(&SamplingParams { frequency_penalty: 0.5, ..plain() }, &FREE));
    assert!(none(&SamplingParams { logit_bias: BTreeMap::from([(1, 2.0)]), ..plain() }, &FREE));
    // Nothing to take: the row says why.
    assert_eq!(from_digest(&mut sampler(&plain()), &[f32::NAN; 3], &FREE), None);
}

proptest! {
    #[test]
    fn digests_give_the_tokens_that_rows_give(
        // Few distinct values: ties are where selections go wrong.
        logits in prop::collection::vec(prop_oneof![
            6 => (-40_i8..40).prop_map(|step| f32::from(step) / 8.0),
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::NAN),
            1 => -50.0_f32..5.0,
        ], 1..1500),
        temperature in prop_oneof![Just(0.0_f32), Just(1.0), 0.05_f32..2.0],
        top_k in prop_oneof![2 => Just(0_u32), 1 => 1_u32..40, 1 => 1_u32..2000],
        top_p in prop_oneof![Just(1.0), 0.01_f32..1.0],
        min_p in prop_oneof![Just(0.0), Just(0.05), 0.0_f32..=1.0],
        seed in any::<u64>(),
        banned in prop::collection::vec(0_u32..1600, 0..MOST_BANNED + 2),
    ) {
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..plain() };
        let (mut whole, mut through) = (Sampler::new(&params, &[], 0), Sampler::new(&params, &[], 0));
        for step in 0..6 {
            let banned = if step % 3 == 2 { banned.as_slice() } else { &[] };
            let directive = Directive { banned, greedy: step == 1, ..FREE };
            let found = from_digest(&mut through, &logits, &directive).map(Ok);
            let found = found.unwrap_or_else(|| through.sample(&logits, &directive));
            prop_assert_eq!(found, whole.sample(&logits, &directive));
        }
    }

    /// Any bit pattern is a logit; a token of -∞ or NaN never comes.
    #[test]
    fn no_logits_make_it_panic(
        bits in prop::collection::vec(prop_oneof![any::<u32>(), Just(0x7f80_0000), Just(0xff80_0000), Just(0x7fc0_0000)], 0..200),
        temperature in prop_oneof![Just(0.0_f32), Just(f32::MIN_POSITIVE), Just(1e-45), 0.0_f32..=2.0],
        top_k in 0_u32..20,
        top_p in prop_oneof![Just(1.0), Just(f32::MIN_POSITIVE), 0.001_f32..1.0],
        min_p in 0.0_f32..=1.0,
        repetition_penalty in prop_oneof![Just(1.0), Just(f32::MIN_POSITIVE), 0.1_f32..2.0],
        frequency_penalty in -2.0_f32..=2.0,
        seed in any::<u64>(),
    ) {
        let logits: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let params = SamplingParams {
            temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty,
            seed: Some(seed),
            logprobs: Some(3),
            ..SamplingParams::default()
        };
        prop_assert_eq!(params.validate(200), Ok(()));
        let mut sampler = Sampler::new(&params, &[0, 1, 5], 0);
        for _ in 0..4 {
            let usable = |logit: &f32| !logit.is_nan() && *logit > f32::NEG_INFINITY;
            match sampler.sample(&logits, &FREE) {
                Ok(sampled) => {
                    prop_assert!(usable(&logits[sampled.token as usize]));
                    prop_assert!(!sampled.logprobs.expect("asked for").logprob.is_nan());
                }
                Err(error) => {
                    prop_assert_eq!(error, SampleError::NoLogits { n_vocab: logits.len() });
                    prop_assert!(!logits.iter().any(usable));
                }
            }
        }
    }
}
