//! What a decoding step of several sequences takes on the CPU, operation by operation:
//!
//!     cargo run --release -p ds4-synth --example rows -- MODEL STEPS ROWS...
//!
//! MODEL is a GGUF file, or a number of layers of the published shape with random weights that all layers share (3.4 GB; 0: all layers).
//! Each number of rows is measured in turns, from the same 32-token prompts; what is printed is the quickest step, and the
//! operations of the quickest round, which differ from step to step by what else the machine does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_gguf::Gguf;
use ds4_model::profile::Profiled;
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Model, Rows, Sequence, forward};
use ds4_synth::{Shape, SynthOptions, in_memory};

const PROMPT: usize = 32;
const ROUNDS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, steps, counts @ ..] = args.as_slice() else { panic!("MODEL STEPS ROWS...") };
    let gguf = match model.parse::<usize>() {
        Ok(layers) => {
            let layers = Some(layers).filter(|&layers| layers > 0);
            in_memory(&SynthOptions { shape: Shape::V4_FLASH, layers, alias: true, seed: 0 }, None).expect("memory")
        }
        Err(_) => Gguf::open(model).expect("a model"),
    };
    let steps: usize = steps.parse().expect("a number of steps");
    let counts: Vec<usize> = counts.iter().map(|n| n.parse().expect("a number of rows")).collect();
    let model = Arc::new(Model::new(gguf).expect("a valid model"));
    let mut backend = CpuBackend::new(Arc::clone(&model), CpuOptions::default()).expect("threads");
    let mut backend = Profiled::new(&mut backend);

    let mut random = 12_345_u32;
    let mut token = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % model.config().n_vocab as u32
    };
    let mut prompt = || -> Sequence {
        let mut sequence = backend.new_sequence();
        let tokens: Vec<u32> = (0..PROMPT).map(|_| token()).collect();
        let mut rows = Rows::new();
        rows.push(0, 0, &tokens, Wanted::Last);
        forward(&mut backend, &rows, &mut [&mut sequence]).expect("a step");
        sequence
    };
    let prompts: Vec<Sequence> = (0..counts.iter().copied().max().unwrap_or(0)).map(|_| prompt()).collect();

    let mut quickest = vec![f64::INFINITY; counts.len()];
    let mut operations: Vec<BTreeMap<&str, f64>> = vec![BTreeMap::new(); counts.len()];
    for _ in 0..ROUNDS {
        for (i, &n) in counts.iter().enumerate() {
            let mut sequences: Vec<Sequence> = prompts[..n].iter().map(SequenceState::fork).collect();
            backend.take();
            for step in 0..steps {
                let mut rows = Rows::new();
                (0..n).for_each(|number| {
                    rows.push(number, PROMPT + step, &[token()], Wanted::Last);
                });
                let begin = Instant::now();
                forward(&mut backend, &rows, &mut sequences.iter_mut().collect::<Vec<_>>()).expect("a step");
                quickest[i] = quickest[i].min(begin.elapsed().as_secs_f64());
            }
            for (operation, time) in backend.take() {
                let ms = time.as_secs_f64() * 1e3 / steps as f64;
                let old = operations[i].entry(operation).or_insert(f64::INFINITY);
                *old = old.min(ms);
            }
        }
    }
    for ((&n, seconds), operations) in counts.iter().zip(&quickest).zip(&operations) {
        let ratio = n as f64 / seconds / (counts[0] as f64 / quickest[0]);
        println!("{n} rows: {:.3} ms a step, {:.1} tokens/s, {ratio:.2} x", seconds * 1e3, n as f64 / seconds);
        let mut operations: Vec<_> = operations.iter().collect();
        operations.sort_by(|a, b| b.1.total_cmp(a.1));
        let text: Vec<String> = operations.iter().map(|(name, ms)| format!("{name} {ms:.3}")).collect();
        println!("    {}", text.join(", "));
    }
}
