//! What a file must hold to be a model, and what the refusal of one that does not says.

use ds4_gguf::{Array, Gguf, GgufWriter, Layout, Metadata, TensorType, Value};
use ds4_model::{Config, Model, ModelError};

/// A fixture's parts, to be changed and put together again.
struct Parts {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, TensorType, Vec<u64>, Vec<u8>)>,
}

impl Parts {
    fn of(file: &str) -> Self {
        let gguf = Gguf::open(ds4_testdata::path(&format!("tiny/{file}.gguf"))).expect("a valid fixture");
        Self {
            metadata: gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            tensors: gguf
                .tensors()
                .iter()
                .map(|info| (info.name.clone(), info.ty, info.dims().to_vec(), gguf.data(info).to_vec()))
                .collect(),
        }
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    fn remove(mut self, key: &str) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    fn tensor(&mut self, name: &str) -> &mut (String, TensorType, Vec<u64>, Vec<u8>) {
        self.tensors.iter_mut().find(|t| t.0 == name).expect("a tensor of the fixture")
    }

    fn gguf(&self) -> Gguf {
        let mut metadata = Metadata::new("changed.gguf");
        for (key, value) in &self.metadata {
            metadata.insert(key.as_str(), value.clone());
        }
        let mut layout = Layout::new(&metadata).expect("an alignment");
        for (name, ty, dims, _) in &self.tensors {
            layout.push(name, *ty, dims).expect("a possible tensor");
        }
        let mut writer = GgufWriter::new("changed.gguf", Vec::new(), &metadata, layout).expect("a writer");
        for (name, _, _, data) in &self.tensors {
            writer.write_tensor(name, data).expect("data of the right size");
        }
        Gguf::from_vec("changed.gguf", writer.finish().expect("a file")).expect("a valid container")
    }

    fn refusal(&self) -> String {
        Model::new(self.gguf()).expect_err("a refusal").to_string()
    }
}

fn says(refusal: &str, parts: &[&str]) {
    for part in parts {
        assert!(refusal.contains(part), "{part:?} is not in {refusal:?}");
    }
}

#[test]
fn every_fixture_binds_and_an_unchanged_copy_is_the_same_model() {
    for file in ["s-f16", "s-mxfp4", "m-q2", "m-q4"] {
        let copy = Model::new(Parts::of(file).gguf()).expect("a valid model");
        let original = Gguf::open(ds4_testdata::path(&format!("tiny/{file}.gguf"))).expect("a valid fixture");
        assert_eq!(copy.fingerprint(), Model::new(original).expect("a valid model").fingerprint());
    }
}

#[test]
fn a_bit_anywhere_and_every_hyperparameter_make_another_model() {
    let fingerprint = |parts: &Parts| Model::new(parts.gguf()).expect("a valid model").fingerprint();
    let original = fingerprint(&Parts::of("m-q2"));
    for name in ["token_embd.weight", "blk.2.ffn_down_exps.weight", "output.weight"] {
        let mut parts = Parts::of("m-q2");
        let data = &mut parts.tensor(name).3;
        let middle = data.len() / 2;
        data[middle] ^= 1;
        assert_ne!(fingerprint(&parts), original, "{name}");
    }
    let mut base = Parts::of("m-q2");
    let (_, value) = base.metadata.iter_mut().find(|(key, _)| key.ends_with("rope.freq_base")).expect("a base");
    *value = Value::F32(12_345.0);
    assert_ne!(fingerprint(&base), original, "the base of the rotary frequencies is in no tensor");
}

#[test]
fn tensors_of_a_draft_block_are_left_alone() {
    let mut parts = Parts::of("s-f16");
    parts.tensors.extend(Parts::of("s-mtp").tensors);
    let model = Model::new(parts.gguf()).expect("a valid model");
    assert_eq!(model.config().n_layer, 7);
}

#[test]
fn a_missing_layer_tensor_is_named() {
    let mut parts = Parts::of("s-f16");
    parts.tensors.retain(|t| t.0 != "blk.3.attn_compressor_gate.weight");
    says(&parts.refusal(), &["changed.gguf", "blk.3.attn_compressor_gate.weight is missing", "7 layers"]);
}

#[test]
fn a_type_that_a_role_cannot_have_is_named() {
    let mut parts = Parts::of("m-q2");
    let expert = parts.tensor("blk.2.ffn_down_exps.weight").clone();
    // The right shape, stored as a router could never be.
    let router = parts.tensor("blk.2.ffn_gate_inp.weight");
    let elements = router.2.iter().product::<u64>() as usize;
    router.1 = expert.1;
    router.3 = expert.3[..elements / 256 * 84].to_vec();
    says(&parts.refusal(), &["blk.2.ffn_gate_inp.weight", "type Q2_K", "data at byte", "F32, F16, BF16, Q8_0"]);
}

#[test]
fn a_wrong_shape_is_named_with_the_right_one() {
    let mut parts = Parts::of("s-f16");
    parts.tensor("blk.0.attn_kv.weight").2.reverse();
    let norm = parts.tensor("output_norm.weight");
    norm.2 = vec![64];
    norm.3.truncate(256);
    says(&parts.refusal(), &["output_norm.weight", "[64]", "expected [128]"]);
}

#[test]
fn an_expert_id_out_of_range_is_named_with_its_place() {
    for id in [8i32, -1, i32::MAX] {
        let mut parts = Parts::of("s-f16");
        let table = parts.tensor("blk.1.ffn_gate_tid2eid.weight");
        table.3[40..44].copy_from_slice(&id.to_le_bytes());
        let refusal = parts.refusal();
        says(
            &refusal,
            &["blk.1.ffn_gate_tid2eid.weight", "entry 10", &format!("expert {id}"), "experts 0 to 7", "byte"],
        );
    }
}

#[test]
fn another_architecture_is_told_what_this_program_runs() {
    let parts = Parts::of("s-f16").set("general.architecture", Value::Str("llama".to_owned()));
    says(&parts.refusal(), &["\"llama\"", "DeepSeek V4", "ds4 pull"]);
}

/// Every dimension that a file may lie about: zero, absurd, or unlike its neighbours.
#[test]
fn impossible_dimensions_are_refused_with_their_key() {
    let u32s = |key: &str, value: u32| Parts::of("s-f16").set(&format!("deepseek4.{key}"), Value::U32(value)).refusal();
    for key in [
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.sliding_window",
        "attention.indexer.top_k",
        "expert_count",
        "expert_used_count",
        "hyper_connection.count",
        "rope.dimension_count",
    ] {
        for value in [0, u32::MAX] {
            says(&u32s(key, value), &["changed.gguf", key, &value.to_string()]);
        }
    }
    says(&u32s("attention.head_count_kv", 2), &["attention.head_count_kv is 2", "expected 1"]);
    says(&u32s("attention.output_group_count", 3), &["attention.output_group_count is 3", "divisor"]);
    says(&u32s("attention.indexer.key_length", 96), &["attention.indexer.key_length is 96", "power of two"]);
    says(&u32s("expert_used_count", 9), &["expert_used_count is 9", "at most expert_count"]);
    says(&u32s("expert_gating_func", 1), &["expert_gating_func is 1", "expected 4"]);
    // One layer more than there are ratios for: the fixture has those of seven layers and of a draft block.
    says(&u32s("block_count", 9), &["compress_ratios", "8 values", "9 layers"]);
}

#[test]
fn numbers_that_are_no_numbers_are_refused() {
    for value in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let parts = Parts::of("s-f16").set("deepseek4.rope.freq_base", Value::F32(value));
        says(&parts.refusal(), &["rope.freq_base", "positive number"]);
    }
    let parts = Parts::of("s-f16").set("deepseek4.swiglu_clamp_exp", Value::Array(Array::F32(vec![f32::NAN; 7])));
    says(&parts.refusal(), &["swiglu_clamp_exp", "positive numbers"]);
}

#[test]
fn a_missing_key_is_an_error_and_an_optional_one_is_not() {
    let refusal = Parts::of("s-f16").remove("deepseek4.attention.q_lora_rank").refusal();
    says(&refusal, &["attention.q_lora_rank"]);
    for key in ["context_length", "rope.scaling.type", "expert_gating_func", "nextn_predict_layers"] {
        let parts = Parts::of("s-f16").remove(&format!("deepseek4.{key}"));
        Model::new(parts.gguf()).expect("a valid model without an optional key");
    }
}

#[test]
fn lengths_may_be_64_bit() {
    let parts = Parts::of("s-f16").set("deepseek4.rope.scaling.original_context_length", Value::U64(65_536));
    assert_eq!(Config::from_gguf(&parts.gguf()).expect("a valid shape").yarn_original_length, 65_536);
    let wrong = Parts::of("s-f16").set("deepseek4.block_count", Value::Str("seven".to_owned()));
    assert!(matches!(Config::from_gguf(&wrong.gguf()), Err(ModelError::Gguf(_))));
}
