//! Complete model files: the shapes, types and data that their description promises.

use ds4_gguf::{Gguf, TensorType, quant};

fn open(rel: &str) -> Gguf {
    Gguf::open(ds4_testdata::path(rel)).unwrap()
}

#[test]
fn model_files_open_and_hold_valid_blocks() {
    for name in ["m-q2", "m-q4", "s-f16", "s-mxfp4"] {
        let gguf = open(&format!("tiny/{name}.gguf"));
        let metadata = gguf.metadata();
        assert_eq!(metadata.str("general.architecture").unwrap(), "deepseek4", "{name}");
        let tokens = metadata.str_array("tokenizer.ggml.tokens").unwrap();
        let vocab = metadata.u32("deepseek4.vocab_size").unwrap();
        assert_eq!(tokens.len(), vocab as usize, "{name}");
        let n_embd = u64::from(metadata.u32("deepseek4.embedding_length").unwrap());
        let embedding = gguf.require_tensor("token_embd.weight").unwrap();
        assert_eq!(embedding.dims(), [n_embd, u64::from(vocab)], "{name}");
        for tensor in gguf.tensors() {
            let verdict = quant::validate(tensor.ty, gguf.data(tensor));
            assert_eq!(verdict, Ok(()), "{name} {}", tensor.name);
        }
    }
}

#[test]
fn the_q2_file_uses_the_types_of_the_real_one() {
    let gguf = open("tiny/m-q2.gguf");
    let ty = |name: &str| gguf.require_tensor(name).unwrap().ty;
    assert_eq!(ty("blk.0.ffn_gate_exps.weight"), TensorType::IQ2_XXS);
    assert_eq!(ty("blk.0.ffn_up_exps.weight"), TensorType::IQ2_XXS);
    assert_eq!(ty("blk.0.ffn_down_exps.weight"), TensorType::Q2_K);
    assert_eq!(ty("blk.0.attn_q_a.weight"), TensorType::Q8_0);
    assert_eq!(ty("blk.0.ffn_gate_tid2eid.weight"), TensorType::I32);
    let error = gguf.require_tensor("blk.99.nothing").unwrap_err().to_string();
    assert!(error.ends_with("m-q2.gguf: the tensor \"blk.99.nothing\" is missing"), "{error}");
}

/// `s-mxfp4` holds the values of `s-f16` exactly, its experts in another format.
#[test]
fn one_model_decodes_alike_from_two_formats() {
    let (half, mxfp4) = (open("tiny/s-f16.gguf"), open("tiny/s-mxfp4.gguf"));
    let decode = |gguf: &Gguf, name: &str| {
        let tensor = gguf.require_tensor(name).unwrap();
        let mut y = vec![0.0; tensor.n_elements() as usize];
        quant::dequantize_row(tensor.ty, gguf.data(tensor), &mut y);
        y
    };
    let mut compared = 0;
    for tensor in mxfp4.tensors().iter().filter(|t| t.ty == TensorType::MXFP4) {
        assert_eq!(decode(&half, &tensor.name), decode(&mxfp4, &tensor.name), "{}", tensor.name);
        compared += 1;
    }
    assert_eq!(compared, 3 * 7);
}
