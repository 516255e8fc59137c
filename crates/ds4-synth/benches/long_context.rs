//! What a context of a million tokens takes in memory at the shape of V4 Flash, measured by taking it:
//! `cargo bench -p ds4-synth --bench long_context`. Every row of the state is written, so that there is memory behind it.
//!
//! `… -- --step 32768` measures instead what a prefill step of 512 tokens that ends there adds to the weights: the state and
//! the step's buffers, on the CPU backend, with layers that share their weights (4 GB).
//!
//! `… -- --store FOLDER` keeps a state of 100 000 tokens in a KV cache on that folder's disk and takes it back, beside a plain read of
//! as many bytes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_gguf::Gguf;
use ds4_kvstore::{Identity, KvStore, Save, StoreOptions};
use ds4_model::rows::Wanted;
use ds4_model::state::{Compressor, SequenceState, StateParts};
use ds4_model::{Backend, Config, KvPrecision, Model, Rows, Sequence, StateLayout, forward};
use ds4_synth::{Shape, SynthOptions, header, in_memory};

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

/// Random bytes, the same for the same seed.
fn scatter(bytes: &mut [u8], seed: u64) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes.chunks_mut(8) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (x ^ x >> 31).to_le_bytes();
        word.copy_from_slice(&random[..word.len()]);
    }
}

/// Lets the system forget what it has read of the files in a folder.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let file = File::open(entry.expect("an entry").path()).expect("a file");
        let _ = rustix::fs::fsync(file.as_fd());
        let _ = rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// A state of 100 000 tokens into a KV cache and back.
fn store(config: &Config, folder: &Path) {
    const TOKENS: usize = 100_000;
    let layout = Arc::new(StateLayout::new(config, KvPrecision::Model));
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let mut sequence = Sequence::new(Arc::clone(&layout));
    fill(&mut sequence, config, TOKENS);
    for (layer, &ratio) in config.ratios.iter().enumerate() {
        for row in 0..TOKENS.checked_div(ratio).unwrap_or(0) {
            scatter(sequence.compressed_row_mut(layer, row), (layer << 32 | row) as u64);
        }
    }
    let tokens: Vec<u32> = (0..=TOKENS as u32).collect();
    let identity =
        Identity { label: "full size".to_owned(), detail: "benchmark".to_owned(), page_tokens: layout.page_tokens };
    let options = || StoreOptions { queue_bytes: 1 << 30, ..StoreOptions::new(folder.path().join("kv"), 1 << 40) };
    {
        let store = KvStore::open(options()).expect("a store");
        let prefixes = store.prefixes(&identity).expect("an index");
        let parts = sequence.parts(0..TOKENS / layout.page_tokens);
        let (parent, begin) = (prefixes.chain().root(), Instant::now());
        let (pages, snapshot) = (parts.pages, Some(parts.rest));
        let save = Save { first_page: 0, parent, tokens: tokens[..TOKENS].to_vec(), pages, snapshot, session: None };
        assert!(prefixes.save(save), "taken");
        store.flush();
        let written = store.stats().saved_bytes;
        println!("{TOKENS} tokens: {:.1} MB on the disk after {:.2?}", written as f64 / 1e6, begin.elapsed());
    }
    let state = layout.sequence_bytes(TOKENS);
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain).expect("a folder");
    let mut bytes = vec![0; state];
    scatter(&mut bytes, 1);
    std::fs::write(plain.join("file"), &bytes).expect("room");
    drop(bytes);
    for _ in 0..5 {
        forget(&plain);
        forget(&folder.path().join("kv/pages"));
        let begin = Instant::now();
        let mut file = File::open(plain.join("file")).expect("a file");
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer).expect("a file") > 0 {}
        let read = begin.elapsed().as_secs_f64();
        forget(&plain);
        let begin = Instant::now();
        let store = KvStore::open(options()).expect("a store");
        let prefixes = store.prefixes(&identity).expect("an index");
        let opened = begin.elapsed();
        let begin = Instant::now();
        let mut chain = prefixes.chain();
        chain.extend(&tokens);
        let loaded = prefixes.restore(&chain, &tokens, 0).expect("stored");
        let parts = StateParts { pages: loaded.pages, rest: loaded.tail };
        let restored = Sequence::from_parts(&layout, loaded.tokens, parts).expect("a state");
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "opened in {opened:.1?}, restored in {:.0} ms: {} bytes read of a state of {state}; dd in {:.0} ms, {:.0} %",
            seconds * 1e3,
            store.stats().loaded_bytes,
            read * 1e3,
            100.0 * read / seconds
        );
        assert!(restored == sequence, "another state");
    }
}

/// The value behind an option of the command line.
fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

fn main() {
    if let Some(tokens) = option("--step") {
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
    if let Some(folder) = option("--store") {
        return store(config, Path::new(&folder));
    }

    for (precision, tokens) in [(KvPrecision::Model, 1_usize << 20), (KvPrecision::Exact, 1 << 16)] {
        let layout = Arc::new(StateLayout::new(config, precision));
        let before = anonymous();
        let begin = Instant::now();
        let mut sequence = Sequence::new(Arc::clone(&layout));
        fill(&mut sequence, config, tokens);
        let taken = anonymous() - before;
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
