//! Time per token of the sampler at the size of the real vocabulary: `cargo bench -p ds4-engine`.

use std::time::Instant;

use ds4_engine::sampling::{Directive, Sampler, SamplingParams};

const N_VOCAB: usize = 129_280;
const STEPS: usize = 100;

/// Logits shaped like a model's: roughly normal, a few far above the rest.
fn logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..N_VOCAB).map(|_| (0..12).map(|_| uniform()).sum::<f32>() * 2.0 - 12.0).collect();
    for rank in 0..20 {
        logits[rank * 6_001 + 17] = 16.0 - rank as f32 / 2.0;
    }
    logits
}

fn main() {
    let logits = logits();
    let default = SamplingParams { seed: Some(1), ..SamplingParams::default() };
    let plain = SamplingParams { min_p: 0.0, ..default.clone() };
    let cases = [
        ("greedy", SamplingParams::greedy()),
        ("default (min-p 0.05)", default.clone()),
        ("default with 20 log-probabilities", SamplingParams { logprobs: Some(20), ..default.clone() }),
        ("top-k 40", SamplingParams { top_k: 40, ..plain.clone() }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..plain.clone() }),
        ("top-p 0.95, temperature 2 (flat)", SamplingParams { top_p: 0.95, temperature: 2.0, ..plain.clone() }),
        ("nothing cut", plain.clone()),
        ("all penalties", SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.5, ..default }),
    ];
    for (name, params) in cases {
        let mut sampler = Sampler::new(&params, &[1, 2, 3], 0);
        let begin = Instant::now();
        for _ in 0..STEPS {
            sampler.sample(&logits, &Directive::default()).expect("logits to sample from");
        }
        println!("{:>8.1} µs/token  {name}", begin.elapsed().as_secs_f64() * 1e6 / STEPS as f64);
    }
}
