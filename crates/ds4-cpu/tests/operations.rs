//! Every operation of the CPU backend against the reference, in every numeric mode.

#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

use ds4_cpu::{CpuBackend, CpuOptions};
use ds4_model::{Compute, KvPrecision, Numerics, conformance};

fn check(file: &str, compute: Compute, kv: KvPrecision) {
    let model = harness::model(file);
    let scenario = conformance::Scenario::new(&model, kv, 7).expect("a valid model");
    let options =
        CpuOptions { threads: Some(2), isa: None, numerics: Numerics { compute, kv }, ..CpuOptions::default() };
    let mut backend = CpuBackend::new(model, options).expect("two threads");
    let found = scenario.compare(&mut backend).expect("a working backend");
    assert!(found.len() > 20, "only {} results were compared", found.len());
    for c in found {
        assert!(c.passed(), "{file}, {compute}, {kv}: {c:?}");
    }
}

#[test]
fn float_exact() {
    check("s-f16", Compute::F32, KvPrecision::Exact);
    check("m-q4", Compute::F32, KvPrecision::Exact);
}

#[test]
fn float_model_precision() {
    check("s-f16", Compute::F32, KvPrecision::Model);
    check("m-q2", Compute::F32, KvPrecision::Model);
}

#[test]
fn int8_model_precision() {
    check("s-mxfp4", Compute::Int8, KvPrecision::Model);
    check("m-q2", Compute::Int8, KvPrecision::Model);
    check("m-q4", Compute::Int8, KvPrecision::Model);
}
