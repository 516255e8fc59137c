//! Checks of a whole backend against golden vectors and against itself. Included by the tests of every backend.
#![allow(dead_code)] // Each including test uses its own part.

use std::sync::Arc;

use ds4_gguf::Gguf;
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Model, Rows, forward, forward_layer};
use ds4_testdata::Npy;

/// Opens a model of `testdata/tiny`.
pub fn model(file: &str) -> Arc<Model> {
    let gguf = Gguf::open(ds4_testdata::path(&format!("tiny/{file}.gguf"))).expect("a valid fixture");
    Arc::new(Model::new(gguf).expect("a valid fixture"))
}

/// The token sequence of a length that the golden vectors of a model family (`s`, `m`) belong to.
pub fn tokens(file: &str, len: usize) -> Vec<u32> {
    let all = ds4_testdata::json("tiny/tokens.json");
    let list = &all[&file[..1]][len.to_string()];
    list.as_array().expect("a token list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Every row's logits, the sequence fed in chunks.
pub fn logits<B: Backend>(backend: &mut B, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = backend.new_sequence();
    continue_logits(backend, &mut sequence, tokens, chunk)
}

/// The same, continuing a sequence.
pub fn continue_logits<B: Backend>(
    backend: &mut B,
    sequence: &mut B::Sequence,
    tokens: &[u32],
    chunk: usize,
) -> Vec<f32> {
    let mut logits = Vec::new();
    for part in tokens.chunks(chunk) {
        let mut rows = Rows::new();
        rows.push(0, sequence.len(), part, Wanted::All);
        forward(backend, &rows, &mut [sequence]).expect("a working backend");
        logits.extend(backend.read(Buffer::Logits).expect("logits"));
    }
    logits
}

/// Largest absolute difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // A NaN on either side must not pass for agreement.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// Plain golden logits, every one within 1e-3, in one chunk and in small ones.
pub fn matches_plain_logits<B: Backend>(backend: &mut B, file: &str, golden: &str, lengths: &[usize]) {
    let vocab = backend.model().config().n_vocab;
    for &len in lengths {
        let tokens = tokens(file, len);
        let ours = logits(backend, &tokens, 128);
        let name = format!("tiny/golden/{golden}/plain/logits_{len}");
        let (expected, step) = match len {
            700 => (ds4_testdata::npy_f32(&format!("{name}_every4.npy")), 4),
            _ => (ds4_testdata::npy_f32(&format!("{name}.npy")), 1),
        };
        let ours: Vec<f32> = ours.chunks_exact(vocab).step_by(step).flatten().copied().collect();
        let difference = max_difference(&ours, &expected.data);
        assert!(difference <= 1e-3, "{file}, {len} tokens: logits differ by {difference}");
    }
}

/// Golden streams with cache rounding, layer by layer: each layer fed with the golden streams before it.
pub fn matches_rounded_layers<B: Backend>(backend: &mut B, file: &str) {
    let hidden = ds4_testdata::npy_f32(&format!("tiny/golden/{file}/rounded/hidden_40.npy"));
    let tokens = tokens(file, 40);
    let size = hidden.data.len() / hidden.shape[0];
    for layer in 0..backend.model().config().n_layer {
        let (before, after) = (&hidden.data[layer * size..][..size], &hidden.data[(layer + 1) * size..][..size]);
        let difference = max_difference(&run_layer(backend, layer, &tokens, before), after);
        assert!(difference <= 0.02, "{file}, layer {layer}: streams differ by {difference}");
    }
}

/// The same for layer 2 over 300 tokens, where the indexer has to select.
pub fn matches_rounded_selection<B: Backend>(backend: &mut B, file: &str) {
    let golden = |name: &str| -> Npy<f32> { ds4_testdata::npy_f32(&format!("tiny/golden/{file}/rounded/{name}.npy")) };
    let ours = run_layer(backend, 2, &tokens(file, 300), &golden("l2_in_300").data);
    let difference = max_difference(&ours, &golden("l2_out_300").data);
    assert!(difference <= 0.02, "{file}, layer 2 over 300 tokens: streams differ by {difference}");
}

fn run_layer<B: Backend>(backend: &mut B, layer: usize, tokens: &[u32], streams: &[f32]) -> Vec<f32> {
    let mut sequence = backend.new_sequence();
    let mut rows = Rows::new();
    rows.push(0, 0, tokens, Wanted::None);
    backend.begin(&rows).expect("a batch");
    backend.write(Buffer::Streams, streams).expect("streams");
    forward_layer(backend, layer, &rows, &mut [&mut sequence]).expect("a working backend");
    backend.read(Buffer::Streams).expect("streams")
}

/// The experts chosen and the rows kept by the indexer, on every position of the 700-token sequence.
pub fn matches_choices<B: Backend>(backend: &mut B, file: &str) {
    let config = backend.model().config().clone();
    let tokens = tokens(file, 700);
    let mut sequence = backend.new_sequence();
    let mut rows = Rows::new();
    rows.push(0, 0, &tokens, Wanted::None);
    backend.begin(&rows).expect("a batch");
    backend.embed(&rows).expect("embedding");
    for layer in 0..config.n_layer {
        forward_layer(backend, layer, &rows, &mut [&mut sequence]).expect("a working backend");

        let experts = ds4_testdata::npy_i64(&format!("tiny/golden/{file}/plain/l{layer}.experts.npy"));
        let ours = backend.read(Buffer::ExpertIds).expect("experts");
        let pairs = ours.chunks_exact(config.n_expert_used).zip(experts.data.chunks_exact(config.n_expert_used));
        for (position, (ours, golden)) in pairs.enumerate() {
            let mut ours: Vec<i64> = ours.iter().map(|&e| e as i64).collect();
            let mut golden = golden.to_vec();
            ours.sort_unstable();
            golden.sort_unstable();
            assert_eq!(ours, golden, "{file}, layer {layer}, position {position}: experts");
        }

        let selecting = config.has_indexer(config.ratios[layer]);
        if !selecting {
            continue;
        }
        let positions = ds4_testdata::npy_i64(&format!("tiny/golden/{file}/plain/l{layer}.sel_pos.npy"));
        let kept = ds4_testdata::npy_i64(&format!("tiny/golden/{file}/plain/l{layer}.sel_rows.npy"));
        for (position, golden) in positions.data.iter().zip(kept.data.chunks_exact(config.idx_topk)) {
            let ours = backend.selection(*position as usize).expect("a selection").expect("a selecting row");
            let ours: Vec<i64> = ours.into_iter().map(i64::from).collect();
            assert_eq!(ours, golden, "{file}, layer {layer}, position {position}: selected rows");
        }
    }
}

/// Prefill in any chunking, several sequences in one batch, and a state saved and loaded at any boundary all give
/// the same bits.
pub fn is_bit_equal<B: Backend>(backend: &mut B, file: &str, len: usize) {
    let tokens = tokens(file, len);
    let whole = bits(&logits(backend, &tokens, len));
    for chunk in [1, 3, 127, 128, 129] {
        assert!(bits(&logits(backend, &tokens, chunk)) == whole, "{file}: chunks of {chunk} give other bits");
    }
    let identity = backend.model().fingerprint();
    let mut sequence = backend.new_sequence();
    let mut saved = Vec::new();
    for boundary in [1, 4, 5, 126, 127, 128, 129, 130, 255, 256, 257, len] {
        let part = &tokens[sequence.len()..boundary];
        saved.extend(bits(&continue_logits(backend, &mut sequence, part, 100)));
        let state = backend.export(&sequence).expect("a state");
        let bytes = state.to_bytes(identity);
        let restored = ds4_model::Sequence::from_bytes(state.layout(), identity, &bytes).expect("an intact state");
        assert!(restored == state, "{file}: the state at {boundary} does not survive saving");
        sequence = backend.import(&restored).expect("an intact state");
    }
    assert!(saved == whole, "{file}: saved and restored on the way, other bits");
    batch_is_bit_equal(backend, &tokens, &whole);
}

/// Three sequences that advance by different amounts in shared batches, each against running alone.
fn batch_is_bit_equal<B: Backend>(backend: &mut B, tokens: &[u32], whole: &[u32]) {
    let vocab = backend.model().config().n_vocab;
    let mut sequences: Vec<B::Sequence> = (0..3).map(|_| backend.new_sequence()).collect();
    let mut results = vec![Vec::new(); 3];
    let steps = [1, 37, 130];
    while sequences.iter().any(|s| s.len() < tokens.len()) {
        let mut rows = Rows::new();
        for (i, sequence) in sequences.iter().enumerate() {
            let end = tokens.len().min(sequence.len() + steps[i]);
            rows.push(i, sequence.len(), &tokens[sequence.len()..end], Wanted::All);
        }
        let mut borrowed: Vec<&mut B::Sequence> = sequences.iter_mut().collect();
        forward(backend, &rows, &mut borrowed).expect("a working backend");
        let logits = backend.read(Buffer::Logits).expect("logits");
        for span in rows.spans() {
            results[span.sequence].extend(bits(&logits[span.first_row * vocab..][..span.len * vocab]));
        }
    }
    for (i, result) in results.iter().enumerate() {
        assert!(result == whole, "sequence {i} gives other bits in company");
    }
}

/// The bit patterns of floats.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Mean Kullback-Leibler divergence of our distributions from the expected ones, and top-1 agreement.
pub fn divergence(ours: &[f32], expected: &[f32], vocab: usize) -> (f64, f64) {
    let rows = ours.len() / vocab;
    let (mut total, mut agree) = (0.0, 0);
    for (ours, expected) in ours.chunks_exact(vocab).zip(expected.chunks_exact(vocab)) {
        let (p, q) = (log_softmax(expected), log_softmax(ours));
        total += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        agree += usize::from(argmax(ours) == argmax(expected));
    }
    (total / rows as f64, agree as f64 / rows as f64)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    logits.iter().map(|l| f64::from(l - max) - sum.ln()).collect()
}

fn argmax(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("values")
}
