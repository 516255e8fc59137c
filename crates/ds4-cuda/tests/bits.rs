//! A row's bits do not depend on the batch, the chunking, the kernels that batch sizes select, nor on the order in which the
//! device runs threads.

mod common;
#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

use std::sync::Arc;

use common::{backend, on_gpu};
use ds4_cuda::{CudaBackend, CudaSequence};
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Compute, KvPrecision, Model, Rows, Sublayer, forward};
use ds4_synth::{Shape, SynthOptions};
use harness::{bits, continue_logits, logits, model, tokens};

/// On a GPU long enough for the window of 128 and a compressed row of ratio 128; the emulated device is slow.
fn long() -> usize {
    if on_gpu() { 150 } else { 24 }
}

#[test]
fn any_chunking_gives_the_same_bits() {
    check_chunkings(5);
}

/// Kernels for cards whose blocks have little shared memory; on a GPU there is only the one.
#[test]
fn any_chunking_gives_the_same_bits_with_less_shared_memory() {
    if !on_gpu() {
        check_chunkings(6);
    }
}

fn check_chunkings(seed: u64) {
    let cases: &[(_, _, _, &[usize])] = if on_gpu() {
        &[
            ("m-q2", KvPrecision::Model, 300, &[128, 64, 37, 7, 1]),
            ("m-q4", KvPrecision::Exact, 300, &[130, 30, 3]),
            ("s-mxfp4", KvPrecision::Model, 300, &[129, 33, 5]),
        ]
    } else {
        // More than 64 rows are what the kernels for large batches take.
        &[("m-q2", KvPrecision::Model, 66, &[33])]
    };
    for &(file, kv, length, chunks) in cases {
        let mut backend = backend(model(file), Compute::Int8, kv, seed);
        let tokens = &tokens(file, 300)[..length];
        // One tensor-core batch; batches for 16 columns at a time; for 8; token by token, which also replays a graph.
        let whole = bits(&logits(&mut backend, tokens, length));
        for &chunk in chunks {
            assert!(bits(&logits(&mut backend, tokens, chunk)) == whole, "{file}: chunks of {chunk} give other bits");
        }
        let mut sequence = backend.new_sequence();
        let mut found = bits(&continue_logits(&mut backend, &mut sequence, &tokens[..length - 3], 100));
        found.extend(bits(&continue_logits(&mut backend, &mut sequence, &tokens[length - 3..], 1)));
        assert!(found == whole, "{file}: token by token gives other bits");
    }
}

/// Matrices of the published width are cut into eight segments of several blocks, which none of the fixtures is wide enough for.
#[test]
fn matrices_of_full_width_give_the_same_bits_in_any_batch() {
    let narrow = Shape { name: "wide", n_layer: 3, n_vocab: 1024, n_expert: 8, n_hash_layer: 1, ..Shape::V4_FLASH };
    let (shape, length, chunks): (_, usize, &[usize]) = if on_gpu() {
        (Shape { n_expert: 16, ..narrow }, 150, &[64, 33, 16, 5])
    } else {
        (Shape { n_head: 16, o_groups: 2, idx_heads: 8, n_ff: 256, ..narrow }, 20, &[12, 6])
    };
    let options = SynthOptions { shape, layers: None, alias: false, seed: 1 };
    let model = Arc::new(Model::new(ds4_synth::in_memory(&options, None).expect("a model")).expect("a valid model"));
    let mut backend = backend(model, Compute::Int8, KvPrecision::Model, 9);
    let tokens: Vec<u32> = (0..length).map(|i| (i * 389 % 1024) as u32).collect();
    let whole = bits(&logits(&mut backend, &tokens, length));
    let sound = whole.iter().all(|&bits| f32::from_bits(bits).is_finite());
    assert!(sound && whole[..1024] != whole[1024..2048], "logits that could not differ");
    for &chunk in chunks {
        assert!(bits(&logits(&mut backend, &tokens, chunk)) == whole, "chunks of {chunk} give other bits");
    }
    let ones = bits(&logits(&mut backend, &tokens[..4], 1));
    assert!(ones == whole[..4 * 1024], "token by token gives other bits");
}

#[test]
fn company_and_saved_states_do_not_change_bits() {
    let file = "m-q2";
    let mut backend = backend(model(file), Compute::Int8, KvPrecision::Model, 7);
    let length = long();
    let tokens = &tokens(file, 300)[..length];
    let vocab = backend.model().config().n_vocab;
    let whole = bits(&logits(&mut backend, tokens, length));

    let identity = backend.model().fingerprint();
    let mut sequence = backend.new_sequence();
    let mut saved = Vec::new();
    for boundary in [1, 5, 23, 127, 128, 129, length].into_iter().filter(|&b| b <= length) {
        let part = &tokens[sequence.len()..boundary];
        if part.is_empty() {
            continue;
        }
        saved.extend(bits(&continue_logits(&mut backend, &mut sequence, part, 64)));
        let state = backend.export(&sequence).expect("a state");
        for pages in [0..boundary / 128, boundary / 128..boundary / 128] {
            let parts = backend.export_parts(&sequence, pages.clone()).expect("parts");
            assert!(parts == state.parts(pages), "parts of the state at {boundary}");
        }
        let pages = (0..).map_while(|page| sequence.page_use(page)).count();
        assert_eq!((sequence.page_count(), pages), (boundary.div_ceil(128), boundary.div_ceil(128)));
        assert!(sequence.own_bytes() >= state.own_bytes());
        let bytes = state.to_bytes(identity);
        let restored = ds4_model::Sequence::from_bytes(state.layout(), identity, &bytes).expect("an intact state");
        sequence = backend.import(&restored).expect("an intact state");
        assert!(backend.export(&sequence).expect("a state") == restored, "the state at {boundary} does not survive");
    }
    assert!(saved == whole, "saved and restored on the way, other bits");

    let mut sequences: Vec<_> = (0..3).map(|_| backend.new_sequence()).collect();
    let mut results = vec![Vec::new(); 3];
    let steps = [29, 37, 130];
    while sequences.iter().any(|s| s.len() < tokens.len()) {
        let mut rows = Rows::new();
        for (i, sequence) in sequences.iter().enumerate() {
            let end = tokens.len().min(sequence.len() + steps[i]);
            rows.push(i, sequence.len(), &tokens[sequence.len()..end], Wanted::All);
        }
        forward(&mut backend, &rows, &mut sequences.iter_mut().collect::<Vec<_>>()).expect("a working backend");
        let logits = backend.read(Buffer::Logits).expect("logits");
        for span in rows.spans() {
            results[span.sequence].extend(bits(&logits[span.first_row * vocab..][..span.len * vocab]));
        }
    }
    for (i, result) in results.iter().enumerate() {
        assert!(*result == whole, "sequence {i} gives other bits in company");
    }
}

#[test]
fn a_fork_leaves_the_other_side_alone() {
    let file = "m-q2";
    let mut backend = backend(model(file), Compute::Int8, KvPrecision::Model, 0);
    let tokens = &tokens(file, 300)[..32];
    let whole = bits(&logits(&mut backend, tokens, 32));
    let mut first = backend.new_sequence();
    let mut found = bits(&continue_logits(&mut backend, &mut first, &tokens[..16], 16));
    let mut other = first.fork();
    assert_eq!(first.page_use(0), other.page_use(0), "a fork shares pages");
    // Another continuation in the same page and slot.
    continue_logits(&mut backend, &mut other, &tokens[..10], 5);
    assert_ne!(first.page_use(0), other.page_use(0), "a page that is written is its sequence's own");
    found.extend(bits(&continue_logits(&mut backend, &mut first, &tokens[16..], 16)));
    assert!(found == whole, "a fork's tokens changed the sequence it came from");
}

#[test]
fn the_order_of_threads_does_not_matter() {
    let file = "m-q2";
    let tokens = &tokens(file, 300)[..24];
    let with_seed = |seed: u64| {
        let mut backend = backend(model(file), Compute::Int8, KvPrecision::Model, seed);
        bits(&logits(&mut backend, tokens, 12))
    };
    let expected = with_seed(0);
    assert!(with_seed(11) == expected, "another order of threads gives other bits");
}

/// One row's operations run in fewer kernels when nobody looks in between; what is there for those who look is the same.
#[test]
fn a_row_that_is_looked_at_on_the_way_has_the_same_bits() {
    let file = "m-q2";
    let tokens = &tokens(file, 300)[..2];
    // Seeds of a device with much shared memory and of one with little.
    for seed in [3, 4] {
        let mut backend = backend(model(file), Compute::Int8, KvPrecision::Model, seed);
        let mut whole = backend.new_sequence();
        let mut looked_at = backend.new_sequence();
        for (position, &token) in tokens.iter().enumerate() {
            let mut rows = Rows::new();
            rows.push(0, position, &[token], Wanted::Last);
            let results = [Buffer::Logits, Buffer::ExpertIds, Buffer::ExpertWeights, Buffer::Output];
            forward(&mut backend, &rows, &mut [&mut whole]).expect("a working backend");
            let expected = results.map(|buffer| bits(&backend.read(buffer).expect("a buffer")));
            let choice = look_at(&mut backend, &rows, &mut looked_at);
            assert!(choice == expected[1..3], "seed {seed}, position {position}: other experts");
            for (buffer, expected) in results.into_iter().zip(&expected) {
                let found = bits(&backend.read(buffer).expect("a buffer"));
                assert!(found == *expected, "seed {seed}, position {position}: {buffer:?} has other bits");
            }
            // Experts that somebody else has chosen are not chosen anew.
            let last = backend.model().config().n_layer - 1;
            let weights = backend.read(Buffer::ExpertWeights).expect("a buffer");
            backend.write(Buffer::ExpertWeights, &vec![0.0; weights.len()]).expect("as many values");
            backend.moe(last).expect("a working backend");
            assert!(
                bits(&backend.read(Buffer::Output).expect("a buffer")) != expected[3],
                "weights of 0 change nothing"
            );
        }
    }
}

/// The forward pass with a look at what each operation has left, which is put back as it was. Gives the last layer's choice of experts and
/// their weights.
fn look_at(backend: &mut CudaBackend, rows: &Rows, sequence: &mut CudaSequence) -> [Vec<u32>; 2] {
    let mut choice = [Vec::new(), Vec::new()];
    let look = |backend: &mut CudaBackend, buffers: &[Buffer]| {
        for &buffer in buffers {
            let values = backend.read(buffer).expect("a buffer");
            backend.write(buffer, &values).expect("values that were just read");
        }
    };
    backend.begin(rows).expect("a working backend");
    backend.embed(rows).expect("a working backend");
    look(backend, &[Buffer::Streams]);
    for layer in 0..backend.model().config().n_layer {
        for sublayer in [Sublayer::Attention, Sublayer::Experts] {
            backend.hc_mix(layer, sublayer).expect("a working backend");
            look(backend, &[Buffer::Input, Buffer::Post, Buffer::Comb]);
            if sublayer == Sublayer::Attention {
                backend.attn_in(layer).expect("a working backend");
                look(backend, &[Buffer::QueryLatent, Buffer::Kv]);
                backend.attn_q(layer, rows).expect("a working backend");
                look(backend, &[Buffer::QueryLatent, Buffer::Query]);
                backend.kv_append(layer, rows, &mut [sequence]).expect("a working backend");
                look(backend, &[Buffer::Kv]);
                backend.index_select(layer, rows, &mut [sequence]).expect("a working backend");
                backend.attend(layer, rows, &mut [sequence]).expect("a working backend");
                look(backend, &[Buffer::Attended]);
                backend.attn_out(layer).expect("a working backend");
            } else {
                for buffer in [Buffer::ExpertIds, Buffer::ExpertWeights] {
                    let nothing = vec![0.0; backend.read(buffer).expect("a buffer").len()];
                    backend.write(buffer, &nothing).expect("as many values");
                }
                backend.route(layer, rows).expect("a working backend");
                choice = [Buffer::ExpertIds, Buffer::ExpertWeights].map(|b| bits(&backend.read(b).expect("a buffer")));
                backend.moe(layer).expect("a working backend");
            }
            look(backend, &[Buffer::Output]);
            backend.hc_merge(layer, sublayer).expect("a working backend");
            look(backend, &[Buffer::Streams]);
        }
    }
    backend.head(rows).expect("a working backend");
    sequence.advance(1);
    choice
}
