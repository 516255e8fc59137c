//! What a context of a million tokens takes in memory at the shape of V4 Flash, measured by taking it:
//! `cargo bench -p ds4-synth --bench long_context`. Every row of the state is written, so that there is memory behind it.
//!
//! `… -- --step 32768` measures instead what a prefill step of 512 tokens that ends there adds to the weights: the state and
//! the step's buffers, on the CPU backend, with layers that share their weights (4 GB).

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_gguf::Gguf;
use ds4_model::rows::Wanted;
use ds4_model::state::{Compressor, SequenceState};
use ds4_model::{Backend, Config, KvPrecision, Model, Rows, Sequence, StateLayout, forward};
use ds4_synth::{Shape, SynthOptions, header, in_memory};

/// Memory of this process in bytes, as the system counts it.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Memory of this process that no file stands behind, in bytes.
fn anonymous() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Writes every row of a sequence of so many tokens.
fn fill(sequence: &mut Sequence, config: &Config, tokens: usize) {
    for (layer, &ratio) in config.ratios.iter().enumerate() {
        (0..config.window).for_each(|position| sequence.window_row_mut(layer, position).fill(1));
        for row in 0..tokens.checked_div(ratio).unwrap_or(0) {
            sequence.compressed_row_mut(layer, row).fill(1);
            if config.has_indexer(ratio) {
                sequence.index_row_mut(layer, row).fill(1);
            }
        }
        sequence.frontier_mut(layer, Compressor::Attention).fill(1.0);
    }
    sequence.advance(tokens);
}

/// What a step of 512 tokens up to `tokens` takes.
fn step(tokens: usize) {
    const ROWS: usize = 512;
    let options = SynthOptions { shape: Shape::V4_FLASH, layers: None, alias: true, seed: 0 };
    let model = Arc::new(Model::new(in_memory(&options, None).expect("enough memory")).expect("a valid model"));
    let weights = anonymous();
    let mut backend = CpuBackend::new(Arc::clone(&model), CpuOptions::default()).expect("threads");
    let layout = StateLayout::new(model.config(), KvPrecision::Model);
    let mut sequence = backend.new_sequence();
    fill(&mut sequence, model.config(), tokens - ROWS);
    let filled = anonymous();
    let mut rows = Rows::new();
    rows.push(0, tokens - ROWS, &[1; ROWS], Wanted::Last);
    let begin = Instant::now();
    forward(&mut backend, &rows, &mut [&mut sequence]).expect("a step");
    let taken = anonymous() - weights;
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let (state, before) = (layout.sequence_bytes(tokens) as u64, filled - weights);
    println!("{ROWS} tokens up to {tokens}: {:.0} MiB beside the weights, in {:.1?}", mib(taken), begin.elapsed());
    println!("state before the step {:.1} MiB, by the layout at its end {:.1} MiB", mib(before), mib(state));
    println!(
        "the rest, buffers of the step: {:.0} MiB, {:.3} MiB per token",
        mib(taken - state),
        mib(taken - state) / ROWS as f64
    );
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--step").skip(1);
    if let Some(tokens) = args.next() {
        return step(tokens.parse().expect("a number of tokens"));
    }
    let options = SynthOptions { shape: Shape::V4_FLASH, layers: None, alias: false, seed: 0 };
    let (header, data_bytes) = header(&options, None).expect("a layout");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("full.gguf");
    let mut file = File::create(&path).expect("a file");
    file.write_all(&header).expect("room for the header");
    file.set_len(header.len() as u64 + data_bytes).expect("a file system with sparse files");
    let model = Model::new(Gguf::open(&path).expect("a valid file")).expect("a valid model");
    let config = model.config();

    for (precision, tokens) in [(KvPrecision::Model, 1_usize << 20), (KvPrecision::Exact, 1 << 16)] {
        let layout = Arc::new(StateLayout::new(config, precision));
        let before = resident();
        let begin = Instant::now();
        let mut sequence = Sequence::new(Arc::clone(&layout));
        fill(&mut sequence, config, tokens);
        let taken = resident() - before;
        println!(
            "{precision}: {tokens} tokens take {:.3} GiB of memory ({:.3} GiB by the layout), written in {:.1} s",
            taken as f64 / (1 << 30) as f64,
            layout.sequence_bytes(tokens) as f64 / (1 << 30) as f64,
            begin.elapsed().as_secs_f64(),
        );
        let begin = Instant::now();
        let fork = sequence.fork();
        println!(
            "{precision}: a snapshot takes {:.2} MiB and {:.2?}",
            fork.own_bytes() as f64 / (1 << 20) as f64,
            begin.elapsed()
        );
    }
}
