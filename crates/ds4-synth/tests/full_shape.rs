//! The full shape as a file of its real size, sparse on disk: opening it must not read it.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use ds4_gguf::Gguf;
use ds4_model::{KvPrecision, Model, ReadCost, StateLayout};
use ds4_synth::{Shape, SynthOptions, header};

#[test]
fn an_81_gb_file_opens_without_being_read_and_costs_what_is_published() {
    let options = SynthOptions { shape: Shape::V4_FLASH, layers: None, alias: false, seed: 0 };
    let (header, data_bytes) = header(&options, None).expect("a layout");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("full.gguf");
    let mut file = File::create(&path).expect("a file");
    file.write_all(&header).expect("room for the header");
    if file.set_len(header.len() as u64 + data_bytes).is_err() {
        eprintln!("this file system has no sparse files of 81 GB; nothing was checked");
        return;
    }

    let model = Model::new(Gguf::open(&path).expect("a valid file")).expect("a valid model");
    let layout = Arc::new(StateLayout::new(model.config(), KvPrecision::Model));

    // Published: 9.556 GB of weights per token with the indexer at work, 0.36 GB less while all rows are attended.
    let long = ReadCost::of(&model, &layout, 32 << 10);
    assert!((long.weights as f64 / 9.556e9 - 1.0).abs() < 1e-3, "{long:?}");
    let short = ReadCost::of(&model, &layout, 2000);
    assert!(((long.weights - short.weights) as f64 / 0.352e9 - 1.0).abs() < 1e-2, "{short:?}");
    // Packed cache: 24 MB at 32 Ki tokens, 68 MB at 128 Ki, 0.48 GB at 1 Mi.
    assert!((long.cache as f64 / 24e6 - 1.0).abs() < 0.03, "{long:?}");
    assert!((ReadCost::of(&model, &layout, 128 << 10).cache as f64 / 68e6 - 1.0).abs() < 0.02);
    assert!((ReadCost::of(&model, &layout, 1 << 20).cache as f64 / 0.48e9 - 1.0).abs() < 0.02);
}
