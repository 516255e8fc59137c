//! Where the time goes on a graphics card: speed of prefill and decoding of a model with random weights, the processor's share of a
//! token, and every kernel's.
//!
//! `cargo run --release -p ds4-wgpu --example profile_wgpu -- OPTIONS`, where the options are those of [`ProfileOptions`].

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
        direct: ds4_wgpu::DIRECT && !o.checked,
        share_weights: o.share,
        prepare: true,
        kernel_folder: o.keep.as_deref(),
        planned: &mut |plan| println!("{plan}"),
        progress: &mut |done| bytes = done,
    };
    let mut backend = WgpuBackend::new(Arc::clone(&model), options)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} with {} layers", backend.arithmetic(), model.config().n_layer);
    println!("loaded {:.2} GB and compiled {} kernels in {seconds:.2} s", bytes as f64 / 1e9, backend.kernels());
    let bandwidth = backend.read_bandwidth()?;
    println!("reads {:.0} GB/s", bandwidth / 1e9);
    println!("multiplies small matrices as a whole (not used): {}", backend.adapter().matrices);
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
            let Step { ms, recording, logit, .. } = step(&mut backend, &rows, &mut [&mut sequence])?;
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
            let before = backend.recorded();
            for i in 0..o.steps {
                let mut rows = Rows::new();
                for (i, s) in sequences.iter().enumerate() {
                    rows.push(i, s.len(), &[token(s.len() + i * 7919)], Wanted::Last);
                }
                // The only step is not taken from the median.
                let timed = o.kernels && i > 0 && i + 1 == o.steps && backend.start_timing()?;
                // In every third step it is counted how long the card works, which takes a little time itself. Not in every second: what
                // happens at every fourth position belongs to both.
                let counted = !timed && i % 3 == 1 && backend.start_counting()?;
                let found = step(&mut backend, &rows, &mut sequences.iter_mut().collect::<Vec<_>>())?;
                if timed {
                    table(&mut backend)?;
                } else if counted {
                    busy.push((found.ms - backend.finish_counting()?, found.ms));
                } else {
                    times.push(found);
                }
            }
            let recorded = backend.recorded();
            let each = |all: u64, before: u64| (all - before) as f64 / o.steps.max(1) as f64;
            times.drain(..(times.len() / 4).min(4));
            times.sort_by(|a, b| a.processor.total_cmp(&b.processor));
            let processor = times[times.len() / 2].processor;
            times.sort_by(|a, b| a.ms.total_cmp(&b.ms));
            busy.sort_by(|a, b| a.0.total_cmp(&b.0));
            let Step { ms, recording, .. } = times[times.len() / 2];
            let speed = batch as f64 / ms * 1e3;
            let bytes = ReadCost::of(&model, &layout, context).total() as f64;
            let percent = bytes / bandwidth / (ms / 1e3) * 100.0;
            println!(
                "decode at {context:>7}, {batch:>2} sequences: {speed:>8.1} t/s  ({ms:.3} ms, {recording:.3} to record, of which the processor \
                 works {processor:.3}; {percent:.0} % of the roofline of one)"
            );
            println!(
                "    {:.1} kernels, {:.1} of them not those of the step before; handed over in {:.1} pieces, copies of logits included",
                each(recorded.kernels, before.kernels),
                each(recorded.changed, before.changed),
                each(recorded.pieces, before.pieces),
            );
            if let Some((idle, of)) = busy.get(busy.len() / 2) {
                println!("    the card waits {idle:.3} of {of:.3} ms");
            }
        }
    }
    Ok(())
}

/// What one pass took.
#[derive(Clone, Copy)]
struct Step {
    /// Milliseconds until the logits are there.
    ms: f64,
    /// Milliseconds until everything was handed over.
    recording: f64,
    /// Milliseconds of these in which this thread ran: neither waited for the driver nor stood aside for other threads.
    processor: f64,
    /// The first logit.
    logit: f32,
}

fn step(backend: &mut WgpuBackend, rows: &Rows, sequences: &mut [&mut WgpuSequence]) -> Result<Step, ModelError> {
    let (started, ran) = (Instant::now(), thread_ms());
    forward(backend, rows, sequences)?;
    // Without this, the last piece would go with the copy of the logits, whose time is mostly waiting.
    backend.submit()?;
    let recording = started.elapsed().as_secs_f64() * 1e3;
    let processor = thread_ms() - ran;
    let logits = backend.read(Buffer::Logits)?;
    Ok(Step { ms: started.elapsed().as_secs_f64() * 1e3, recording, processor, logit: logits[0] })
}

/// Milliseconds of the processor that this thread has had; not a number where nobody counts them.
fn thread_ms() -> f64 {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for the result.
        if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } == 0 {
            return time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6;
        }
    }
    f64::NAN
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
