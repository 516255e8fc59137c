//! Every operation against the reference, in every numeric mode, with and without subgroup operations.

#[path = "../../ds4-model/tests/harness/mod.rs"]
mod harness;

mod common;

use ds4_model::{Compute, KvPrecision, Numerics, conformance};

fn check(file: &str, compute: Compute, kv: KvPrecision, subgroups: bool) {
    let model = harness::model(file);
    let Some(mut backend) = common::backend(&model, Numerics { compute, kv }, subgroups) else { return };
    let scenario = conformance::Scenario::new(&model, kv, 7).expect("a valid model");
    let found = scenario.compare(&mut backend).expect("a working backend");
    assert!(found.len() > 20, "only {} results were compared", found.len());
    let failed: Vec<_> = found.iter().filter(|c| !c.passed()).collect();
    assert!(failed.is_empty(), "{file}, {compute}, {kv}, subgroups {subgroups}: {failed:#?}");
}

#[test]
fn float_exact() {
    check("s-f16", Compute::F32, KvPrecision::Exact, true);
    check("m-q4", Compute::F32, KvPrecision::Exact, true);
}

#[test]
fn float_model_precision() {
    check("s-f16", Compute::F32, KvPrecision::Model, true);
    check("m-q2", Compute::F32, KvPrecision::Model, false);
}

#[test]
fn int8_model_precision() {
    check("s-mxfp4", Compute::Int8, KvPrecision::Model, true);
    check("m-q2", Compute::Int8, KvPrecision::Model, true);
    check("m-q4", Compute::Int8, KvPrecision::Model, false);
}
