//! Synthetic models are accepted as models, and have the published sizes.

use ds4_gguf::TensorType;
use ds4_model::Model;
use ds4_synth::{Shape, SynthOptions, data_bytes, in_memory};

fn options(name: &str) -> SynthOptions {
    SynthOptions { shape: Shape::by_name(name).expect("a shape"), layers: None, alias: false, seed: 1 }
}

#[test]
fn the_full_shape_has_the_published_tensors_and_size() {
    let tensors = Shape::V4_FLASH.tensors(43);
    assert_eq!(tensors.len(), 1328);
    let count = |ty| tensors.iter().filter(|t| t.ty == ty).count();
    assert_eq!(count(TensorType::F16), 359);
    assert_eq!(count(TensorType::F32), 492);
    assert_eq!(count(TensorType::Q8_0), 345);
    assert_eq!(count(TensorType::IQ2_XXS), 86);
    assert_eq!(count(TensorType::Q2_K), 43);
    assert_eq!(count(TensorType::I32), 3);
    let bytes = |name: &str| -> u64 {
        Shape::by_name(name).expect("a shape").tensors(43).iter().map(ds4_synth::TensorSpec::bytes).sum()
    };
    assert_eq!(bytes("v4-flash-q2"), 86_714_775_900);
    assert_eq!(bytes("v4-flash-q4"), 164_628_167_004);
    assert_eq!(bytes("v4-flash-mxfp4"), 155_971_123_548);
}

#[test]
fn a_small_shape_binds_and_has_ordinary_weights() {
    let gguf = in_memory(&options("nano"), None).expect("enough memory");
    let model = Model::new(gguf).expect("a valid model");
    for tensor in [
        &model.token_embd,
        &model.output,
        &model.layers[2].router,
        &model.layers[2].gate_exps,
        &model.layers[2].down_exps,
        &model.layers[2].q_b,
    ] {
        let mut row = vec![0.0; tensor.cols];
        let mut sum = 0.0;
        let rows = tensor.rows.min(64);
        for n in 0..rows {
            model.decode_row(tensor, n, &mut row);
            sum += row.iter().map(|v| v * v).sum::<f32>();
        }
        let deviation = (sum / rows as f32).sqrt();
        assert!((0.5..2.0).contains(&deviation), "{tensor:?}: rows have length {deviation}, expected about 1");
    }
}

#[test]
fn layers_share_bytes_when_asked() {
    let full = data_bytes(&options("v4-flash-q2")).expect("a size");
    let shared = data_bytes(&SynthOptions { alias: true, ..options("v4-flash-q2") }).expect("a size");
    assert!(full > 80 << 30, "{full}");
    assert!(shared < 4 << 30, "{shared}");
    let gguf = in_memory(&SynthOptions { alias: true, ..options("nano") }, None).expect("enough memory");
    let offset = |name: &str| gguf.tensor(name).expect("a tensor").offset;
    assert_eq!(offset("blk.2.ffn_gate_exps.weight"), offset("blk.6.ffn_gate_exps.weight"));
    assert_ne!(offset("blk.2.exp_probs_b.bias".replace("2", "3").as_str()), offset("blk.4.exp_probs_b.bias"));
    Model::new(gguf).expect("a valid model");
}

#[test]
fn impossible_layer_counts_are_refused() {
    for layers in [0, 44] {
        let error = data_bytes(&SynthOptions { layers: Some(layers), ..options("v4-flash-q2") }).expect_err("refused");
        assert_eq!(error.to_string(), format!("{layers} layers are not possible: this shape has 1 to 43"));
    }
}
