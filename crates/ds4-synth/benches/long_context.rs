//! What a context of a million tokens takes in memory at the shape of V4 Flash, measured by taking it:
//! `cargo bench -p ds4-synth --bench long_context`. Every row of the state is written, so that there is memory behind it.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use ds4_gguf::Gguf;
use ds4_model::state::{Compressor, SequenceState};
use ds4_model::{KvPrecision, Model, Sequence, StateLayout};
use ds4_synth::{Shape, SynthOptions, header};

/// Memory of this process in bytes, as the system counts it.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn main() {
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
