//! Models of other shapes than the published ones against the reference: numbers of heads, widths, ranks, experts and streams that are
//! no powers of two and no multiples of what a workgroup takes.

mod common;

use std::sync::Arc;

use ds4_model::{Compute, KvPrecision, Model, Numerics, conformance};
use ds4_synth::{Recipe, Shape, SynthOptions};

const ODD: Shape = Shape {
    name: "odd",
    recipe: Recipe::Q2,
    n_layer: 4,
    n_embd: 768,
    n_vocab: 301,
    n_head: 6,
    head_dim: 192,
    rope_dim: 64,
    q_rank: 96,
    o_rank: 32,
    o_groups: 3,
    window: 40,
    idx_heads: 3,
    idx_dim: 64,
    idx_topk: 13,
    n_expert: 5,
    n_expert_used: 3,
    n_ff: 256,
    n_hash_layer: 1,
    hc: 3,
    plain_layers: 1,
};

fn check(shape: Shape, numerics: Numerics, subgroups: bool) {
    let synth = SynthOptions { layers: None, alias: false, seed: 3, shape };
    let gguf = ds4_synth::in_memory(&synth, None).expect("room for a small model");
    let model = Arc::new(Model::new(gguf).expect("a valid model"));
    let Some(mut backend) = common::backend(&model, numerics, subgroups) else { return };
    let scenario = conformance::Scenario::new(&model, numerics.kv, 5).expect("a valid model");
    let found = scenario.compare(&mut backend).expect("a working backend");
    assert!(found.len() > 20, "only {} results were compared", found.len());
    let failed: Vec<_> = found.iter().filter(|c| !c.passed()).collect();
    assert!(failed.is_empty(), "{shape:?}, subgroups {subgroups}: {failed:#?}");
}

#[test]
fn odd_numbers() {
    check(ODD, Numerics { compute: Compute::Int8, kv: KvPrecision::Model }, true);
}

#[test]
fn one_group_and_few_streams() {
    let shape = Shape {
        recipe: Recipe::Mxfp4,
        n_embd: 160,
        n_head: 5,
        head_dim: 128,
        o_groups: 1,
        q_rank: 64,
        idx_heads: 7,
        idx_dim: 128,
        idx_topk: 40,
        n_expert: 9,
        n_expert_used: 2,
        n_ff: 96,
        hc: 2,
        ..ODD
    };
    check(shape, Numerics { compute: Compute::Int8, kv: KvPrecision::Model }, false);
}

#[test]
fn many_streams_without_rounding() {
    let shape = Shape {
        recipe: Recipe::Q4,
        n_layer: 3,
        n_embd: 512,
        n_head: 10,
        head_dim: 256,
        o_groups: 5,
        o_rank: 64,
        n_expert: 17,
        n_expert_used: 5,
        hc: 5,
        ..ODD
    };
    check(shape, Numerics { compute: Compute::F32, kv: KvPrecision::Exact }, true);
}
