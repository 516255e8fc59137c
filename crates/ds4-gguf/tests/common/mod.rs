//! Builds GGUF files byte by byte, so that tests can break each field.

#![allow(dead_code)] // each test program uses its part

/// Bytes of a file under construction.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version 3 and the two counts.
    pub fn new(n_tensors: u64, n_key_values: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_key_values)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    pub fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub fn str(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }

    /// A key and the type of the value that follows.
    pub fn key(self, key: &str, value_type: u32) -> Raw {
        self.str(key).u32(value_type)
    }

    /// A tensor entry.
    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let mut raw = self.str(name).u32(dims.len() as u32);
        for &n in dims {
            raw = raw.u64(n);
        }
        raw.u32(ty).u64(offset)
    }

    /// Zeros up to the next multiple of `alignment`.
    pub fn pad(mut self, alignment: usize) -> Raw {
        let len = self.0.len().next_multiple_of(alignment);
        self.0.resize(len, 0);
        self
    }

    pub fn zeros(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A small valid file with every value type, every tensor type and a shared region.
pub fn valid_file() -> Vec<u8> {
    use ds4_gguf::{Array, GgufWriter, Layout, Metadata, TensorType, Value};
    let mut metadata = Metadata::new("valid.gguf");
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(0.5),
        Value::Bool(true),
        Value::Str("text".into()),
        Value::U64(4),
        Value::I64(-4),
        Value::F64(0.25),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I32(vec![0, 4, 128])),
        Value::Array(Array::F32(vec![10.0; 3])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::Str(["a", "", "Ünïcode"].iter().collect())),
        Value::Array(Array::U64(vec![7])),
    ];
    for (i, value) in values.into_iter().enumerate() {
        metadata.insert(format!("key.{i}"), value);
    }
    let mut layout = Layout::new(&metadata).unwrap();
    for ty in TensorType::ALL {
        layout.push(ty.name(), ty, &[256, 2, 1]).unwrap();
    }
    layout.push_at("shared", TensorType::F16, &[8], 64).unwrap();
    let mut writer = GgufWriter::new("valid.gguf", Vec::new(), &metadata, layout).unwrap();
    for ty in TensorType::ALL {
        let size = 2 * ty.row_bytes(256).unwrap();
        let data: Vec<u8> = (0..size).map(|i| (i * 31 % 120) as u8).collect();
        writer.write_tensor(ty.name(), &data).unwrap();
    }
    writer.finish().unwrap()
}
