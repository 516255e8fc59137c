//! Where the time goes on a graphics card: speed of prefill and decoding of a model with random weights, the processor's share of a
//! token, and every kernel's.
//!
//! `cargo run --release -p ds4-wgpu --example profile -- OPTIONS`, where the options are those of [`ProfileOptions`].

use std::sync::Arc;
use std::time::Instant;

use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ModelError, Numerics, ReadCost, Rows, StateLayout, forward};
use ds4_synth::{ProfileOptions, SynthOptions};
use ds4_wgpu::{Api, WgpuBackend, WgpuOptions, WgpuSequence};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let o = ProfileOptions::new(512).read(std::env::args().skip(1))?;
    let started = Instant::now();
    // The layers' bytes are made once; on the card each layer has its own unless --share is given.
    let synth = SynthOptions { shape: o.shape, layers: o.layers, alias: true, seed: 1 };
    let model = Arc::new(Model::new(ds4_synth::in_memory(&synth, None)?)?);
    println!("made in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let mut bytes = 0;
    let options = WgpuOptions {
        api: Api::Any,
        numerics: Numerics::default(),
        subgroups: true,
        halves: true,
        planes: true,
        share_weights: o.share,
        prepare: true,
        kernel_folder: o.keep.as_deref(),
        progress: &mut |done| bytes = done,
    };
    let mut backend = WgpuBackend::new(Arc::clone(&model), options)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} with {} layers", backend.arithmetic(), model.config().n_layer);
    println!("loaded {:.2} GB and compiled {} kernels in {seconds:.2} s", bytes as f64 / 1e9, backend.kernels());
    let bandwidth = backend.read_bandwidth()?;
    println!("reads {:.0} GB/s", bandwidth / 1e9);
    let vocab = model.config().n_vocab;
    let layout = StateLayout::new(model.config(), backend.numerics().kv);
    let token = |i: usize| ProfileOptions::token(i, vocab);

    let mut sequence = backend.new_sequence();
    for &context in &o.contexts {
        while sequence.len() < context {
            let n = o.chunk.min(context - sequence.len());
            let tokens: Vec<u32> = (sequence.len()..sequence.len() + n).map(token).collect();
            let timed = o.kernels && sequence.len() + n == context && backend.start_timing()?;
            let mut rows = Rows::new();
            rows.push(0, sequence.len(), &tokens, Wanted::Last);
            let (ms, recording, logit) = step(&mut backend, &rows, &mut [&mut sequence])?;
            let speed = n as f64 / ms * 1e3;
            println!(
                "prefill to {:>7}: {speed:>8.1} t/s  ({ms:.1} ms, {recording:.2} to record, logit 0 {logit:.4})",
                sequence.len()
            );
            if timed {
                table(&mut backend)?;
            }
        }
        for &batch in &o.batches {
            let mut sequences: Vec<_> = (0..batch).map(|_| sequence.fork()).collect();
            let mut times = Vec::new();
            let mut busy = Vec::new();
            for i in 0..o.steps {
                let mut rows = Rows::new();
                for (i, s) in sequences.iter().enumerate() {
                    rows.push(i, s.len(), &[token(s.len() + i * 7919)], Wanted::Last);
                }
                let timed = o.kernels && i + 1 == o.steps && backend.start_timing()?;
                // In every other step it is counted how long the card works, which takes a little time itself.
                let counted = !timed && i % 2 == 1 && backend.start_counting()?;
                let found = step(&mut backend, &rows, &mut sequences.iter_mut().collect::<Vec<_>>())?;
                if timed {
                    table(&mut backend)?;
                } else if counted {
                    busy.push((found.0 - backend.finish_counting()?, found.0));
                } else {
                    times.push((found.0, found.1));
                }
            }
            times.drain(..(times.len() / 4).min(4));
            times.sort_by(|a, b| a.0.total_cmp(&b.0));
            busy.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (ms, recording) = times[times.len() / 2];
            let speed = batch as f64 / ms * 1e3;
            let bytes = ReadCost::of(&model, &layout, context).total() as f64;
            let percent = bytes / bandwidth / (ms / 1e3) * 100.0;
            println!(
                "decode at {context:>7}, {batch:>2} sequences: {speed:>8.1} t/s  ({ms:.3} ms, {recording:.3} to record, {percent:.0} % of the roofline of one)"
            );
            if let Some((idle, of)) = busy.get(busy.len() / 2) {
                println!("    the card waits {idle:.3} of {of:.3} ms");
            }
        }
    }
    Ok(())
}

/// One pass: milliseconds until the logits are there, milliseconds of the processor until everything was handed over, first logit.
fn step(
    backend: &mut WgpuBackend,
    rows: &Rows,
    sequences: &mut [&mut WgpuSequence],
) -> Result<(f64, f64, f32), ModelError> {
    let started = Instant::now();
    forward(backend, rows, sequences)?;
    let recorded = started.elapsed().as_secs_f64() * 1e3;
    let logits = backend.read(Buffer::Logits)?;
    Ok((started.elapsed().as_secs_f64() * 1e3, recorded, logits[0]))
}

fn table(backend: &mut WgpuBackend) -> Result<(), ModelError> {
    let times = backend.finish_timing()?;
    let total: f64 = times.iter().map(|time| time.2).sum();
    for (kernel, count, ms) in times {
        println!("    {kernel:<64} {count:>6} x {:>9.2} us = {ms:>9.3} ms", ms * 1e3 / f64::from(count));
    }
    println!("    total {total:.3} ms");
    Ok(())
}
