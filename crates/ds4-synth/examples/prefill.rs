//! What prefilling a prompt takes on the CPU, operation by operation:
//!
//!     cargo run --release -p ds4-synth --example prefill -- MODEL TOKENS [ROUNDS]
//!
//! MODEL is a GGUF file, or a number of layers of the published shape with random weights that all layers share (3.4 GB; 0: all layers).
//! All tokens make one step, from an empty state. What is printed is the quickest step of the rounds (5 unless given, after one that does
//! not count), and of each operation the least time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_gguf::Gguf;
use ds4_model::profile::Profiled;
use ds4_model::rows::Wanted;
use ds4_model::{Backend, Model, Rows, forward};
use ds4_synth::{Shape, SynthOptions, in_memory};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, rounds @ ..] = args.as_slice() else { panic!("MODEL TOKENS [ROUNDS]") };
    let gguf = match model.parse::<usize>() {
        Ok(layers) => {
            let layers = Some(layers).filter(|&layers| layers > 0);
            in_memory(&SynthOptions { shape: Shape::V4_FLASH, layers, alias: true, seed: 0 }, None).expect("memory")
        }
        Err(_) => Gguf::open(model).expect("a model"),
    };
    let n: usize = tokens.parse().expect("a number of tokens");
    let rounds: usize = rounds.first().map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
    let model = Arc::new(Model::new(gguf).expect("a valid model"));
    let mut backend = CpuBackend::new(Arc::clone(&model), CpuOptions::default()).expect("threads");
    let mut backend = Profiled::new(&mut backend);

    let mut random = 12_345_u32;
    let mut token = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % model.config().n_vocab as u32
    };
    let tokens: Vec<u32> = (0..n).map(|_| token()).collect();
    let mut quickest = f64::INFINITY;
    let mut operations: BTreeMap<&str, f64> = BTreeMap::new();
    for round in 0..=rounds {
        let mut sequence = backend.new_sequence();
        let mut rows = Rows::new();
        rows.push(0, 0, &tokens, Wanted::Last);
        backend.take();
        let begin = Instant::now();
        forward(&mut backend, &rows, &mut [&mut sequence]).expect("a step");
        let seconds = begin.elapsed().as_secs_f64();
        if round == 0 {
            continue;
        }
        quickest = quickest.min(seconds);
        for (operation, time) in backend.take() {
            let old = operations.entry(operation).or_insert(f64::INFINITY);
            *old = old.min(time.as_secs_f64());
        }
    }
    let per_token = 1e3 / n as f64;
    println!("{n} tokens: {:.3} ms a token, {:.1} tokens/s", quickest * per_token, n as f64 / quickest);
    let mut operations: Vec<_> = operations.iter().collect();
    operations.sort_by(|a, b| b.1.total_cmp(a.1));
    for (operation, seconds) in operations {
        println!("  {operation:14} {:8.3}", seconds * per_token);
    }
}
