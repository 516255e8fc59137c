//! The CUDA backend, on the emulated device, against golden vectors of an independent implementation and against itself.

mod common;
#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

use common::{backend as backend_of, on_gpu};
use ds4_cuda::CudaBackend;
use ds4_model::{Compute, KvPrecision};
use harness::*;

fn backend(file: &str, compute: Compute, kv: KvPrecision) -> CudaBackend {
    backend_of(model(file), compute, kv, 3)
}

#[test]
fn plain_logits() {
    let mut backend = backend("s-f16", Compute::F32, KvPrecision::Exact);
    let lengths: &[usize] = if on_gpu() { &[1, 5, 40, 300, 700] } else { &[1, 40] };
    matches_plain_logits(&mut backend, "s-f16", "s-f16", lengths);
}

#[test]
fn plain_logits_of_every_format() {
    for (file, golden) in [("s-mxfp4", "s-f16"), ("m-q2", "m-q2"), ("m-q4", "m-q4")] {
        let mut backend = backend(file, Compute::F32, KvPrecision::Exact);
        let lengths: &[usize] = if on_gpu() { &[1, 5, 40, 300] } else { &[5] };
        matches_plain_logits(&mut backend, file, golden, lengths);
    }
}

#[test]
fn rounded_layers() {
    if on_gpu() {
        matches_rounded_layers(&mut backend("s-f16", Compute::F32, KvPrecision::Model), "s-f16");
        matches_choices(&mut backend("m-q2", Compute::F32, KvPrecision::Exact), "m-q2");
    }
    matches_rounded_layers(&mut backend("m-q2", Compute::F32, KvPrecision::Model), "m-q2");
}

#[test]
fn rounded_selection() {
    if !on_gpu() {
        // 300 tokens are minutes on the emulated device; `operations` has rows that choose.
        return;
    }
    matches_rounded_selection(&mut backend("s-f16", Compute::F32, KvPrecision::Model), "s-f16");
}

/// int8 activations against plain: distributions stay as close as a simulation of such rounding says.
#[test]
fn int8_activations_stay_close() {
    let cases: &[_] = if on_gpu() { &[("m-q2", 5), ("m-q2", 40), ("m-q4", 5), ("m-q4", 40)] } else { &[("m-q2", 40)] };
    for &(file, len) in cases {
        let mut backend = backend(file, Compute::Int8, KvPrecision::Exact);
        let ours = logits(&mut backend, &tokens(file, len), 64);
        let golden = ds4_testdata::npy_f32(&format!("tiny/golden/{file}/plain/logits_{len}.npy"));
        let (kl, agreement) = divergence(&ours, &golden.data, 512);
        assert!(kl < 0.03 && agreement >= 0.8, "{file}, {len} tokens: KL {kl:.4}, top-1 agreement {agreement:.2}");
    }
}
