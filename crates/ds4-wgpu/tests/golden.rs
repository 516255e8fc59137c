//! Whole models against golden vectors of an independent implementation, and against themselves.

#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

mod common;

use std::sync::Arc;

use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Compute, KvPrecision, Model, Numerics, Rows, forward};
use ds4_wgpu::WgpuBackend;
use harness::*;

fn backend(file: &str, compute: Compute, kv: KvPrecision) -> Option<WgpuBackend> {
    common::backend(&model(file), Numerics { compute, kv }, true)
}

#[test]
fn plain_logits() {
    let all: [(_, _, &[usize]); 4] = [
        ("s-f16", "s-f16", &[1, 5, 300]),
        ("s-mxfp4", "s-f16", &[40]),
        ("m-q2", "m-q2", &[1, 40]),
        ("m-q4", "m-q4", &[5]),
    ];
    for (file, golden, lengths) in all {
        let Some(mut backend) = backend(file, Compute::F32, KvPrecision::Exact) else { return };
        matches_plain_logits(&mut backend, file, golden, lengths);
    }
}

#[test]
fn choices() {
    let Some(mut backend) = backend("s-f16", Compute::F32, KvPrecision::Exact) else { return };
    matches_choices(&mut backend, "s-f16");
}

#[test]
fn rounded_layers_and_selection() {
    for file in ["s-f16", "m-q2"] {
        let Some(mut backend) = backend(file, Compute::F32, KvPrecision::Model) else { return };
        matches_rounded_layers(&mut backend, file);
        if file == "s-f16" {
            matches_rounded_selection(&mut backend, file);
        }
    }
}

/// int8 activations against plain: distributions stay as close as a simulation of such rounding says.
#[test]
fn int8_activations_stay_close() {
    for file in ["m-q2", "m-q4"] {
        let Some(mut backend) = backend(file, Compute::Int8, KvPrecision::Exact) else { return };
        let ours = logits(&mut backend, &tokens(file, 40), 64);
        let golden = ds4_testdata::npy_f32(&format!("tiny/golden/{file}/plain/logits_40.npy"));
        let (kl, agreement) = divergence(&ours, &golden.data, 512);
        assert!(kl < 0.03 && agreement >= 0.8, "{file}: KL {kl:.4}, top-1 agreement {agreement:.2}");
    }
}

/// The demo model, prefilled in chunks and decoded, against logits that an independent program computed. Its first positions
/// only: `ds4 doctor --self-test` goes through all of them.
#[test]
fn demo_model() {
    // A test program that was carried to another machine runs somewhere in the repository there.
    let compiled = std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let current = std::env::current_dir().unwrap_or_default();
    let roots = std::iter::once(compiled.as_path()).chain(current.ancestors());
    let folder = roots.map(|root| root.join("nano")).find(|nano| nano.is_dir()).expect("the repository");
    let gguf = ds4_gguf::Gguf::open(folder.join("nano.gguf")).expect("the demo model");
    let model = Arc::new(Model::new(gguf).expect("a valid model"));
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("its golden logits");
    let golden: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let tokens: Vec<u32> = list(&golden["tokens"]).iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    // Exact: float error. Rounded rows and int8 activations: as far off as rounding takes them.
    for (numerics, bound) in
        [(Numerics { compute: Compute::F32, kv: KvPrecision::Exact }, 1e-4), (Numerics::default(), 0.2)]
    {
        let Some(mut backend) = common::backend(&model, numerics, true) else { return };
        let mut sequence = backend.new_sequence();
        let mut found = continue_logits(&mut backend, &mut sequence, &tokens[..64], 40);
        found.extend(continue_logits(&mut backend, &mut sequence, &tokens[64..80], 1));
        let vocab = model.config().n_vocab;
        let mut compared = 0;
        for expected in list(&golden["positions"]) {
            let position = expected["position"].as_u64().expect("a position") as usize;
            let Some(row) = found.chunks_exact(vocab).nth(position) else { continue };
            let rms = expected["rms"].as_f64().expect("a size");
            for pair in list(&expected["top"]) {
                let (id, logit) = (pair[0].as_u64().expect("an id"), pair[1].as_f64().expect("a logit"));
                let error = (f64::from(row[id as usize]) - logit).abs() / rms;
                // Single logits lie further off than all of them on average.
                assert!(error < 4.0 * bound, "position {position}, token {id}: off by {error} of the logits' size");
                compared += 1;
            }
        }
        assert!(compared > 20, "only {compared} logits were compared");
    }
}

/// Prefill in other chunks, single tokens across the borders of window and page, a state saved and restored there, and a batch
/// with others: the same bits. (The harness has a longer version of this; a card simulated by the processor takes too long for it.)
#[test]
fn any_chunking_gives_the_same_bits() {
    for (file, compute, kv) in
        [("m-q2", Compute::Int8, KvPrecision::Model), ("s-f16", Compute::F32, KvPrecision::Exact)]
    {
        let Some(mut backend) = backend(file, compute, kv) else { return };
        same_bits(&mut backend, file);
    }
}

fn same_bits(backend: &mut WgpuBackend, file: &str) {
    let tokens = &tokens(file, 300)[..134];
    let vocab = backend.model().config().n_vocab;
    let whole = bits(&logits(backend, tokens, tokens.len()));
    assert!(bits(&logits(backend, tokens, 45)) == whole, "{file}: chunks of 45 give other bits");

    let mut sequence = backend.new_sequence();
    let mut found = bits(&continue_logits(backend, &mut sequence, &tokens[..125], 125));
    let fork = sequence.fork();
    for end in 126..=130 {
        found.extend(bits(&continue_logits(backend, &mut sequence, &tokens[end - 1..end], 1)));
        let state = backend.export(&sequence).expect("a state");
        sequence = backend.import(&state).expect("an intact state");
        assert!(backend.export(&sequence).expect("a state") == state, "{file}: the state at {end} does not come back");
    }
    found.extend(bits(&continue_logits(backend, &mut sequence, &tokens[130..], 4)));
    assert!(found == whole, "{file}: token by token, saved and restored on the way, other bits");

    // Three forks of one sequence, which share its pages until they write, advance by different amounts.
    let mut sequences = [fork.fork(), fork.fork(), fork];
    for steps in [[1, 2, 3], [2, 1, 4], [6, 6, 2]] {
        let mut rows = Rows::new();
        for (i, sequence) in sequences.iter().enumerate() {
            rows.push(i, sequence.len(), &tokens[sequence.len()..][..steps[i]], Wanted::All);
        }
        let [a, b, c] = &mut sequences;
        forward(backend, &rows, &mut [a, b, c]).expect("a working backend");
        let logits = bits(&backend.read(Buffer::Logits).expect("logits"));
        for span in rows.spans() {
            let expected = &whole[span.first_position * vocab..][..span.len * vocab];
            let found = &logits[span.first_row * vocab..][..span.len * vocab];
            assert!(found == expected, "{file}: sequence {} gives other bits in company", span.sequence);
        }
    }
    // What a store asks for is what the whole state has.
    let state = backend.export(&sequences[0]).expect("a state");
    assert!(backend.export_parts(&sequences[0], 0..1).expect("parts") == state.parts(0..1));
    assert!(backend.export_parts(&sequences[0], 1..1).expect("parts") == state.parts(1..1));
}

/// The tree of additions is the same whether neighbours exchange values directly or through workgroup memory, and values of cached keys are
/// whether the card converts them or integers are put together. Nor does it matter who records the commands.
#[test]
fn what_a_card_can_do_changes_no_bit() {
    let file = "m-q2";
    let tokens = tokens(file, 40);
    let run = |can| {
        let mut nobody = |_| {};
        let options =
            ds4_wgpu::WgpuOptions { subgroups: can, halves: can, direct: can, ..common::options(&mut nobody) };
        let mut backend = common::open(&model(file), options)?;
        Some((backend.span(), bits(&logits(&mut backend, &tokens, 9))))
    };
    let (Some((span, with)), Some((one, without))) = (run(true), run(false)) else { return };
    assert_eq!(one, 1);
    if span == 1 {
        eprintln!("skipped: this card has no subgroup operations to compare");
    }
    assert!(with == without, "spans of {span} give other bits");
}

/// A token's kernels are found by those of the token before, whatever its position: looking each up anew would take as long as recording it.
/// Nor do tokens take more pieces than they have to.
#[test]
fn tokens_are_recorded_by_the_one_before() {
    let file = "m-q2";
    let Some(mut backend) = backend(file, Compute::Int8, KvPrecision::Model) else { return };
    let tokens = tokens(file, 300);
    let mut sequence = backend.new_sequence();
    // Buffers have grown to their size by then, and every kind of position was there once.
    continue_logits(&mut backend, &mut sequence, &tokens[..DECODED.start - 8], 64);
    continue_logits(&mut backend, &mut sequence, &tokens[DECODED.start - 8..DECODED.start], 1);
    let before = backend.recorded();
    continue_logits(&mut backend, &mut sequence, &tokens[DECODED], 1);
    let now = backend.recorded();
    assert!(now.kernels - before.kernels >= 40 * DECODED.len() as u64, "{now:?} after {before:?}");
    assert_eq!(now.changed, before.changed, "kernels were looked up");
    // The first layer, the first four, the rest with the head and the copy of the logits.
    assert!(now.pieces - before.pieces <= 3 * DECODED.len() as u64, "{now:?} after {before:?}");
}

/// Positions that are decoded one by one.
const DECODED: std::ops::Range<usize> = 144..160;

/// So are products of weights in planes and of those in the file's layout, for every format.
#[test]
fn layouts_change_no_bit() {
    for file in ["m-q2", "m-q4", "s-mxfp4"] {
        let tokens = tokens(file, 40);
        for compute in [Compute::Int8, Compute::F32] {
            let numerics = Numerics { compute, ..Numerics::default() };
            let run = |planes| {
                let mut backend = common::with_layout(&model(file), numerics, true, planes)?;
                Some(bits(&logits(&mut backend, &tokens[..14], 11)))
            };
            let (Some(planes), Some(blocks)) = (run(true), run(false)) else { return };
            assert!(planes == blocks, "{file}, {compute}: the layouts give different bits");
        }
    }
}

/// What is compiled ahead is all that short prompts and single tokens need; kept on disk, it is found again, and a damaged file does no
/// harm.
#[test]
fn kernels_are_compiled_ahead_and_kept() {
    let file = "m-q2";
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = tokens(file, 300);
    let run = || {
        let mut nobody = |_| {};
        let options =
            ds4_wgpu::WgpuOptions { prepare: true, kernel_folder: Some(folder.path()), ..common::options(&mut nobody) };
        let mut backend = common::open(&model(file), options)?;
        let ahead = backend.kernels();
        assert!(ahead > 20, "only {ahead} kernels were compiled ahead");
        let mut sequence = backend.new_sequence();
        let mut found = bits(&continue_logits(&mut backend, &mut sequence, &tokens[..128], 16));
        found.extend(bits(&continue_logits(&mut backend, &mut sequence, &tokens[128..132], 1)));
        let wanted_rows = backend.kernels() - ahead;
        Some((found, wanted_rows))
    };
    let Some((first, later)) = run() else { return };
    // `continue_logits` wants every row's logits, a prompt only its last's.
    assert!(later <= 1, "{later} kernels were compiled later");
    let kept: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry")).collect();
    let Some(kept) = kept.first() else {
        eprintln!("skipped: this driver lets nothing be kept");
        return;
    };
    assert!(run().expect("a card").0 == first, "kernels that were kept give other bits");
    let mut bytes = std::fs::read(kept.path()).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(kept.path(), &bytes).expect("room");
    assert!(run().expect("a card").0 == first, "a damaged file changes bits");
    assert!(std::fs::read(kept.path()).expect("a file") != bytes, "the damaged file stays");
}
