//! Where the time goes on a GPU: speed of prefill and decoding of a model with random weights, and every kernel's share.
//!
//! `cargo run --release -p ds4-cuda --example profile -- OPTIONS`, where the options are those of [`ProfileOptions`]. With
//! `--features timeline` also when a decoding step's blocks came where, inside its graph.

use std::sync::Arc;
use std::time::Instant;

use ds4_cuda::device::cuda::CudaDevice;
use ds4_cuda::{CudaBackend, CudaOptions, Device};
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, ReadCost, Rows, StateLayout, forward};
use ds4_synth::{ProfileOptions, SynthOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let o = ProfileOptions::new(2048).read(std::env::args().skip(1))?;
    let device = CudaDevice::open(0)?;
    let as_device: Arc<dyn Device> = Arc::<CudaDevice>::clone(&device);
    println!("{:?}", device.info());
    let started = Instant::now();
    // The layers' bytes are made once; on the card each layer has its own unless --share is given.
    let synth = SynthOptions { shape: o.shape, layers: o.layers, alias: true, seed: 1 };
    let model = Arc::new(Model::new(ds4_synth::in_memory(&synth, None)?)?);
    println!("made in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let mut bytes = 0;
    let options = CudaOptions { share_weights: o.share, ..CudaOptions::default() };
    let mut backend = CudaBackend::new(Arc::clone(&model), as_device, options, &mut |done| bytes = done)?;
    let seconds = started.elapsed().as_secs_f64();
    println!("loaded {:.2} GB in {seconds:.1} s, {:.1} GB/s", bytes as f64 / 1e9, bytes as f64 / 1e9 / seconds);
    let memory = device.memory()?;
    println!("memory: {:.2} of {:.2} GiB in use", gib(memory.total - memory.free), gib(memory.total));
    // Weights are all that is there by now, but for the driver's.
    let loaded = memory.free;
    let vocab = model.config().n_vocab;
    let layout = StateLayout::new(model.config(), backend.numerics().kv);
    let token = |i: usize| ProfileOptions::token(i, vocab);

    let mut sequence = backend.new_sequence();
    let mut prompt_seconds = 0.0;
    for &context in &o.contexts {
        while sequence.len() < context {
            let n = o.chunk.min(context - sequence.len());
            let tokens: Vec<u32> = (sequence.len()..sequence.len() + n).map(token).collect();
            let last = sequence.len() + n == context;
            if o.kernels && last {
                device.start_timing();
            }
            let mut rows = Rows::new();
            rows.push(0, sequence.len(), &tokens, Wanted::Last);
            let started = Instant::now();
            forward(&mut backend, &rows, &mut [&mut sequence])?;
            let logits = backend.read(Buffer::Logits)?;
            let seconds = started.elapsed().as_secs_f64();
            prompt_seconds += seconds;
            println!(
                "prefill to {:>7}: {:>8.1} t/s  ({:.1} ms, logit 0 {:.4})",
                sequence.len(),
                n as f64 / seconds,
                seconds * 1e3,
                logits[0]
            );
            if o.kernels && last {
                table(&device)?;
            }
        }
        println!("prompt of {context:>7}: {:>8.1} t/s as a whole", context as f64 / prompt_seconds);
        let state = layout.sequence_bytes(context) as u64;
        let memory = device.memory()?;
        println!(
            "memory at {context:>7}: {:.2} of {:.2} GiB in use, {:.2} more than when the weights were there, {:.2} of them state",
            gib(memory.total - memory.free),
            gib(memory.total),
            gib(loaded.saturating_sub(memory.free)),
            gib(state)
        );
        for &batch in &o.batches {
            let mut sequences: Vec<_> = (0..batch).map(|_| sequence.fork()).collect();
            let mut times = Vec::new();
            for step in 0..o.steps {
                let profile = o.kernels && step + 1 == o.steps;
                let mut rows = Rows::new();
                for (i, s) in sequences.iter().enumerate() {
                    rows.push(i, s.len(), &[token(s.len() + i * 7919)], Wanted::Last);
                }
                if profile {
                    // Timed kernels are started one by one: a batch of two more rows has no graph yet.
                    device.start_timing();
                    backend.forget_graphs();
                }
                let started = Instant::now();
                forward(&mut backend, &rows, &mut sequences.iter_mut().collect::<Vec<_>>())?;
                backend.read(Buffer::Logits)?;
                times.push(started.elapsed().as_secs_f64());
                if profile {
                    table(&device)?;
                }
            }
            #[cfg(feature = "timeline")]
            if batch == 1 {
                timeline::print(&device.timeline()?);
            }
            times.drain(..(times.len() / 4).min(4));
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            let cost = ReadCost::of(&model, &layout, context);
            println!(
                "decode at {context:>7}, {batch:>2} sequences: {:>8.1} t/s  ({:.3} ms, {:.0} GB/s for one)",
                batch as f64 / median,
                median * 1e3,
                cost.total() as f64 / 1e9 / median
            );
        }
    }
    Ok(())
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn table(device: &CudaDevice) -> Result<(), Box<dyn std::error::Error>> {
    let times = device.finish_timing()?;
    let total: f64 = times.iter().map(|t| t.2).sum();
    for (kernel, count, ms) in times {
        println!("    {kernel:<26} {count:>6} x {:>9.2} us = {ms:>9.3} ms", ms * 1e3 / count as f64);
    }
    println!("    total {total:.3} ms");
    Ok(())
}

#[cfg(feature = "timeline")]
mod timeline {
    use std::collections::BTreeMap;

    use ds4_cuda::device::timeline::Noted;

    /// What launches of one kernel behind launches of one kernel have in common, summed: microseconds since the end of the launch ahead.
    #[derive(Default)]
    struct Sum {
        first: usize,
        count: f64,
        took: f64,
        /// Per mark: mean over the blocks that came there, first of them, last of them.
        marks: [[f64; 4]; 8],
    }

    /// Prints, by kernel and number of blocks, how much longer each took than the launch ahead of it, and when its blocks came to their marks.
    pub fn print(noted: &[Noted]) {
        let end_of = |n: &Noted| n.blocks.iter().map(|b| b[7]).max().unwrap_or(0);
        let mut sums: BTreeMap<(&str, &str, usize), Sum> = BTreeMap::new();
        for (i, pair) in noted.windows(2).enumerate() {
            let (ahead, n) = (end_of(&pair[0]), &pair[1]);
            let since = |t: u64| (t as f64 - ahead as f64) / 1e3;
            let sum =
                sums.entry((pair[0].kernel, n.kernel, n.blocks.len())).or_insert(Sum { first: i, ..Sum::default() });
            sum.count += 1.0;
            sum.took += since(end_of(n));
            for (mark, to) in sum.marks.iter_mut().enumerate() {
                let came: Vec<f64> = n.blocks.iter().map(|b| b[mark]).filter(|&t| t != 0).map(since).collect();
                if !came.is_empty() {
                    to[0] += 1.0;
                    to[1] += came.iter().sum::<f64>() / came.len() as f64;
                    to[2] += came.iter().copied().fold(f64::INFINITY, f64::min);
                    to[3] += came.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                }
            }
        }
        let mut list: Vec<_> = sums.into_iter().collect();
        list.sort_by_key(|(_, sum)| sum.first);
        println!(
            "microseconds since the end of the launch ahead; per mark mean [first..last] over blocks: start, inputs there, the kernel's own, end"
        );
        for ((_, kernel, blocks), sum) in list {
            print!("{kernel:<22} {blocks:>4} blocks {:>4} x {:>6.2}:", sum.count, sum.took / sum.count);
            for mark in sum.marks.iter().filter(|mark| mark[0] > 0.0) {
                print!("  {:.1} [{:.1}..{:.1}]", mark[1] / mark[0], mark[2] / mark[0], mark[3] / mark[0]);
            }
            println!();
        }
        let all = noted.iter().flat_map(|n| &n.blocks);
        let (first, last) = all.fold((u64::MAX, 0), |(first, last), b| (first.min(b[0]), last.max(b[7])));
        println!("{} launches, {:.1} microseconds", noted.len(), last.saturating_sub(first) as f64 / 1e3);
    }
}
