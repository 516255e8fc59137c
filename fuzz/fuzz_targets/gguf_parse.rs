//! Any bytes as a GGUF file: opening gives a value or a sentence, and everything that an open file
//! promises can be used.

#![no_main]

use ds4_gguf::quant::activation::Activations;
use ds4_gguf::{Array, Gguf, GgufWriter, Layout, TensorInfo, Value, quant};
use libfuzzer_sys::fuzz_target;

/// Tensors share bytes, so a small file can have many large ones; decoding all of them would only
/// be slow.
const MAX_ELEMENTS: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    match Gguf::from_vec("fuzzed.gguf", bytes.to_vec()) {
        Ok(gguf) => use_everything(&gguf),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("fuzzed.gguf: at byte "), "{message}");
            assert!(message.len() < 1000, "{message}");
        }
    }
});

fn use_everything(gguf: &Gguf) {
    for (key, value) in gguf.metadata().iter() {
        read(gguf, key, value);
    }
    let mut decoded = 0;
    for tensor in gguf.tensors() {
        assert!(gguf.tensor(&tensor.name).is_some());
        let data = gguf.data(tensor);
        assert_eq!(data.len() as u64, tensor.row_bytes() * tensor.n_rows());
        decoded += tensor.n_elements();
        if decoded < MAX_ELEMENTS {
            compute(tensor, data);
        }
    }
    write_again(gguf);
}

fn read(gguf: &Gguf, key: &str, value: &Value) {
    let metadata = gguf.metadata();
    assert_eq!(metadata.get(key).map(Value::type_id), Some(value.type_id()));
    // Each getter gives a value or an error that can be shown.
    let shown = [
        metadata.u32(key).err(),
        metadata.u64(key).err(),
        metadata.i32(key).err(),
        metadata.f32(key).err(),
        metadata.bool(key).err(),
        metadata.str(key).err(),
        metadata.str_array(key).err(),
        metadata.i32_array(key).err(),
        metadata.u32_array(key).err(),
        metadata.f32_array(key).err(),
    ];
    for error in shown.into_iter().flatten() {
        assert!(error.to_string().starts_with("fuzzed.gguf: "));
    }
    if let Value::Array(Array::Str(strings)) = value {
        for (i, s) in strings.iter().enumerate() {
            assert_eq!(strings.get(i), Some(s));
        }
    }
}

fn compute(tensor: &TensorInfo, data: &[u8]) {
    let mut y = vec![0.0; tensor.n_elements() as usize];
    quant::dequantize_row(tensor.ty, data, &mut y);
    let _ = quant::validate(tensor.ty, data);
    let row_len = tensor.row_len() as usize;
    if tensor.ty.is_block_format() {
        // The decoded row as activations: finite or not, the product has to be computed.
        let x = Activations::quantize(&y[..row_len], row_len);
        quant::dot(tensor.ty, &data[..tensor.row_bytes() as usize], x.row(0));
    }
}

fn write_again(gguf: &Gguf) {
    // Alignments of gigabytes are legal; padding to them is not worth the time.
    if gguf.alignment() > 4096 {
        return;
    }
    let metadata = gguf.metadata();
    let mut layout = Layout::new(metadata).expect("read, hence valid");
    let mut total = 0;
    for tensor in gguf.tensors() {
        total += tensor.size;
        if total > 1 << 20 {
            return;
        }
        layout.push(&tensor.name, tensor.ty, tensor.dims()).expect("read, hence valid");
    }
    let mut writer = GgufWriter::new("written", Vec::new(), metadata, layout).expect("valid");
    for tensor in gguf.tensors() {
        writer.write_tensor(&tensor.name, gguf.data(tensor)).expect("as laid out");
    }
    let bytes = writer.finish().expect("complete");
    let again = Gguf::from_vec("written", bytes).expect("what is written can be read");
    // As text, because NaN is not equal to itself.
    let text = |gguf: &Gguf| format!("{:?}", gguf.metadata().iter().collect::<Vec<_>>());
    assert_eq!(text(gguf), text(&again));
    for (a, b) in gguf.tensors().iter().zip(again.tensors()) {
        assert_eq!((&a.name, a.dims(), a.ty), (&b.name, b.dims(), b.ty));
        assert_eq!(gguf.data(a), again.data(b));
    }
}
