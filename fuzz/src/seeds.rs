//! Writes the starting corpus: small valid files that reach every value type and tensor type.

use std::error::Error;
use std::fs;
use std::path::Path;

use ds4_gguf::{Array, GgufWriter, Layout, Metadata, TensorType, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/gguf_parse");
    fs::create_dir_all(&folder)?;
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(0.5),
        Value::Bool(true),
        Value::Str("deepseek4".into()),
        Value::U64(4),
        Value::I64(-4),
        Value::F64(0.25),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![1])),
        Value::Array(Array::I16(vec![-1])),
        Value::Array(Array::U32(vec![4])),
        Value::Array(Array::I32(vec![0, 4, 128])),
        Value::Array(Array::F32(vec![10.0; 3])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::Str(["a", "", "ü"].iter().collect())),
        Value::Array(Array::U64(vec![7])),
        Value::Array(Array::I64(vec![-7])),
        Value::Array(Array::F64(vec![0.5])),
    ];
    let mut all = Metadata::new("seed");
    for (i, value) in values.iter().enumerate() {
        all.insert(i.to_string(), value.clone());
        let mut one = Metadata::new("seed");
        one.insert("k", value.clone());
        let name = format!("value-{}-{i}", value.type_id());
        fs::write(folder.join(name), file(&one, &[])?)?;
    }
    fs::write(folder.join("values"), file(&all, &[])?)?;
    for ty in TensorType::ALL {
        let seed = file(&Metadata::new("seed"), &[ty])?;
        fs::write(folder.join(format!("tensor-{ty}")), seed)?;
    }
    let mut aligned = Metadata::new("seed");
    aligned.insert("general.alignment", Value::U32(64));
    let pair = [TensorType::F16, TensorType::Q8_0];
    fs::write(folder.join("aligned"), file(&aligned, &pair)?)?;
    Ok(())
}

/// A file with one row of each type, and one tensor that shares the first one's bytes.
fn file(metadata: &Metadata, types: &[TensorType]) -> Result<Vec<u8>, ds4_gguf::Error> {
    let mut layout = Layout::new(metadata)?;
    for (i, ty) in types.iter().enumerate() {
        let name = i.to_string();
        let offset = layout.push(&name, *ty, &[ty.block_len() as u64, 2])?;
        if i == 0 {
            layout.push_at("s", *ty, &[ty.block_len() as u64], offset)?;
        }
    }
    let mut writer = GgufWriter::new("seed", Vec::new(), metadata, layout)?;
    for (i, ty) in types.iter().enumerate() {
        let data: Vec<u8> = (0..2 * ty.block_bytes()).map(|b| (b % 60) as u8).collect();
        writer.write_tensor(&i.to_string(), &data)?;
    }
    writer.finish()
}
