//! The CPU backend against golden vectors of an independent implementation, and against itself.

#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

use ds4_cpu::kernels::Isa;
use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_model::rows::Wanted;
use ds4_model::state::SequenceState;
use ds4_model::{Backend, Buffer, Compute, KvPrecision, Numerics, Rows, forward};
use harness::*;

fn backend(file: &str, compute: Compute, kv: KvPrecision) -> CpuBackend {
    let options =
        CpuOptions { threads: Some(2), isa: None, numerics: Numerics { compute, kv }, ..CpuOptions::default() };
    CpuBackend::new(model(file), options).expect("two threads")
}

#[test]
fn plain_logits_of_s_f16() {
    let mut backend = backend("s-f16", Compute::F32, KvPrecision::Exact);
    matches_plain_logits(&mut backend, "s-f16", "s-f16", &[1, 5, 40, 300, 700]);
}

#[test]
fn plain_logits_of_s_mxfp4() {
    let mut backend = backend("s-mxfp4", Compute::F32, KvPrecision::Exact);
    matches_plain_logits(&mut backend, "s-mxfp4", "s-f16", &[1, 5, 40, 300]);
}

#[test]
fn plain_logits_of_m_q2() {
    let mut backend = backend("m-q2", Compute::F32, KvPrecision::Exact);
    matches_plain_logits(&mut backend, "m-q2", "m-q2", &[1, 5, 40, 300, 700]);
}

#[test]
fn plain_logits_of_m_q4() {
    let mut backend = backend("m-q4", Compute::F32, KvPrecision::Exact);
    matches_plain_logits(&mut backend, "m-q4", "m-q4", &[1, 5, 40, 300]);
}

#[test]
fn choices() {
    matches_choices(&mut backend("s-f16", Compute::F32, KvPrecision::Exact), "s-f16");
    matches_choices(&mut backend("m-q2", Compute::F32, KvPrecision::Exact), "m-q2");
}

#[test]
fn rounded_layers() {
    matches_rounded_layers(&mut backend("s-f16", Compute::F32, KvPrecision::Model), "s-f16");
    matches_rounded_layers(&mut backend("m-q2", Compute::F32, KvPrecision::Model), "m-q2");
}

#[test]
fn rounded_selection() {
    matches_rounded_selection(&mut backend("s-f16", Compute::F32, KvPrecision::Model), "s-f16");
}

/// int8 activations against plain: distributions stay as close as a simulation of such rounding says.
#[test]
fn int8_activations_stay_close() {
    for (file, len) in [("m-q2", 5), ("m-q2", 40), ("m-q4", 5), ("m-q4", 40)] {
        let mut backend = backend(file, Compute::Int8, KvPrecision::Exact);
        let vocab = 512;
        let ours = logits(&mut backend, &tokens(file, len), 64);
        let golden = ds4_testdata::npy_f32(&format!("tiny/golden/{file}/plain/logits_{len}.npy"));
        let (kl, agreement) = divergence(&ours, &golden.data, vocab);
        assert!(kl < 0.03 && agreement >= 0.8, "{file}, {len} tokens: KL {kl:.4}, top-1 agreement {agreement:.2}");
    }
}

#[test]
fn any_chunking_gives_the_same_bits() {
    for (compute, kv) in [(Compute::Int8, KvPrecision::Model), (Compute::F32, KvPrecision::Exact)] {
        is_bit_equal(&mut backend("m-q2", compute, kv), "m-q2", 300);
        is_bit_equal(&mut backend("s-f16", compute, kv), "s-f16", 300);
    }
    is_bit_equal(&mut backend("m-q4", Compute::Int8, KvPrecision::Model), "m-q4", 300);
    is_bit_equal(&mut backend("s-mxfp4", Compute::Int8, KvPrecision::Model), "s-mxfp4", 300);
}

#[test]
fn every_thread_count_and_instruction_set_gives_the_same_bits() {
    for file in ["m-q2", "m-q4", "s-mxfp4"] {
        let tokens = tokens(file, 300);
        let with = |threads, isa| {
            let options = CpuOptions {
                threads: Some(threads),
                isa: Some(isa),
                numerics: Numerics::default(),
                ..CpuOptions::default()
            };
            bits(&logits(&mut CpuBackend::new(model(file), options).expect("threads"), &tokens, 100))
        };
        let expected = with(1, Isa::detect());
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                assert!(with(threads, isa) == expected, "{file}: {isa}, {threads} threads: other bits");
            }
        }
    }
}

/// Sequences of different lengths that decode together, as many as take other ways through the operations (fewer rows than threads,
/// rows that stay with a thread, rows that go one by one), beside a prompt or not: each has the bits that it has alone.
#[test]
fn any_number_that_decodes_together_gives_the_same_bits() {
    const STEPS: usize = 3;
    for (file, compute, kv) in [
        ("m-q2", Compute::Int8, KvPrecision::Model),
        ("s-f16", Compute::F32, KvPrecision::Exact),
        ("s-mxfp4", Compute::Int8, KvPrecision::Model),
    ] {
        let numerics = Numerics { compute, kv };
        let tokens = tokens(file, 300);
        let lengths = |i: usize| [1, 3, 127, 130, 200, 296, 255, 64][i % 8];
        let mut alone = backend(file, compute, kv);
        let vocab = alone.model().config().n_vocab;
        let whole = bits(&logits(&mut alone, &tokens, 300));
        let begun: Vec<_> = (0..8)
            .map(|i| {
                let mut sequence = alone.new_sequence();
                continue_logits(&mut alone, &mut sequence, &tokens[..lengths(i)], 300);
                sequence
            })
            .collect();
        for threads in [1, 2, 3] {
            let options = CpuOptions { threads: Some(threads), numerics, ..CpuOptions::default() };
            let mut backend = CpuBackend::new(model(file), options).expect("threads");
            for (together, prompt) in
                [(1, 0), (2, 0), (4, 0), (5, 0), (6, 0), (8, 0), (13, 0), (17, 0), (26, 0), (7, 30)]
            {
                let mut sequences: Vec<_> = (0..together).map(|i| begun[i % 8].clone()).collect();
                let mut prompted = backend.new_sequence();
                for step in 0..STEPS {
                    let mut rows = Rows::new();
                    for (i, sequence) in sequences.iter().enumerate() {
                        rows.push(i, sequence.len(), &tokens[sequence.len()..][..1], Wanted::Last);
                    }
                    if prompt > 0 {
                        rows.push(together, prompted.len(), &tokens[prompted.len()..][..prompt], Wanted::Last);
                    }
                    let mut all: Vec<_> = sequences.iter_mut().chain((prompt > 0).then_some(&mut prompted)).collect();
                    forward(&mut backend, &rows, &mut all).expect("a working backend");
                    let found = bits(&backend.read(Buffer::Logits).expect("logits"));
                    for (i, found) in found.chunks_exact(vocab).enumerate() {
                        let position = if i < together { lengths(i) + step } else { prompted.len() - 1 };
                        let expected = &whole[position * vocab..][..vocab];
                        assert!(
                            found == expected,
                            "{file}, {threads} threads, {together} together: number {i} in step {step}"
                        );
                    }
                }
            }
        }
    }
}
