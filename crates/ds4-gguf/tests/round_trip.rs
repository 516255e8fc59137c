//! What the writer writes, the reader reads.

mod common;

use std::io::Write;

use ds4_gguf::{Array, AtomicFile, Error, Gguf, GgufWriter, Layout, Metadata, TensorType, Value};
use proptest::collection::vec;
use proptest::prelude::*;

fn array() -> impl Strategy<Value = Array> {
    let finite = -1e30f32..1e30;
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Array::U8),
        vec(any::<i8>(), 0..20).prop_map(Array::I8),
        vec(any::<u16>(), 0..20).prop_map(Array::U16),
        vec(any::<i16>(), 0..20).prop_map(Array::I16),
        vec(any::<u32>(), 0..20).prop_map(Array::U32),
        vec(any::<i32>(), 0..20).prop_map(Array::I32),
        vec(finite, 0..20).prop_map(Array::F32),
        vec(any::<bool>(), 0..20).prop_map(Array::Bool),
        vec(".{0,12}", 0..20).prop_map(|v| Array::Str(v.iter().collect())),
        vec(any::<u64>(), 0..20).prop_map(Array::U64),
        vec(any::<i64>(), 0..20).prop_map(Array::I64),
        vec(-1e300f64..1e300, 0..20).prop_map(Array::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e30f32..1e30).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,40}".prop_map(Value::Str),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e300f64..1e300).prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

/// Type, blocks per row, further dimensions.
fn shape() -> impl Strategy<Value = (TensorType, Vec<u64>)> {
    let ty = proptest::sample::select(TensorType::ALL.to_vec());
    (ty, 1u64..4, vec(1u64..4, 0..4)).prop_map(|(ty, blocks, more)| {
        let mut dims = vec![blocks * ty.block_len() as u64];
        dims.extend(more);
        (ty, dims)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reader_returns_what_was_written(
        values in vec(value(), 0..12),
        shapes in vec(shape(), 0..8),
        alignment in proptest::option::of(3u32..9),
        seed: u8,
        parts in 1usize..5,
    ) {
        let mut metadata = Metadata::new("written");
        for (i, value) in values.into_iter().enumerate() {
            metadata.insert(format!("{i}.ключ"), value);
        }
        if let Some(log2) = alignment {
            metadata.insert("general.alignment", Value::U32(1 << log2));
        }
        let mut layout = Layout::new(&metadata).unwrap();
        let mut data = Vec::new();
        for (i, (ty, dims)) in shapes.iter().enumerate() {
            layout.push(&format!("t{i}"), *ty, dims).unwrap();
            let rows: u64 = dims[1..].iter().product();
            let size = ty.row_bytes(dims[0] as usize).unwrap() * rows as usize;
            data.push((0..size).map(|b| (b as u8).wrapping_mul(seed)).collect::<Vec<u8>>());
        }
        if let Some((ty, dims)) = shapes.first() {
            layout.push_at("alias", *ty, dims, 0).unwrap();
        }
        let mut writer = GgufWriter::new("out", Vec::new(), &metadata, layout).unwrap();
        for (i, bytes) in data.iter().enumerate() {
            for part in bytes.chunks(bytes.len().div_ceil(parts)) {
                writer.write_part(&format!("t{i}"), part).unwrap();
            }
        }
        let gguf = Gguf::from_vec("read", writer.finish().unwrap()).unwrap();

        prop_assert_eq!(gguf.metadata(), &metadata);
        prop_assert_eq!(gguf.alignment(), 1 << alignment.unwrap_or(5));
        prop_assert_eq!(gguf.tensors().len(), shapes.len() + usize::from(!shapes.is_empty()));
        for (i, (ty, dims)) in shapes.iter().enumerate() {
            let tensor = gguf.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!((tensor.ty, tensor.dims()), (*ty, &dims[..]));
            prop_assert_eq!(gguf.data(tensor), &data[i][..]);
            prop_assert_eq!(tensor.row_bytes() * tensor.n_rows(), tensor.size);
        }
        if let Some(alias) = gguf.tensor("alias") {
            prop_assert_eq!(gguf.data(alias), &data[0][..]);
        }
    }
}

#[test]
fn a_file_on_disk_and_the_same_bytes_in_memory_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valid.gguf");
    let bytes = common::valid_file();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(&bytes).unwrap();
    file.commit().unwrap();
    let disk = Gguf::open(&path).unwrap();
    let memory = Gguf::from_static("valid.gguf", bytes.leak()).unwrap();
    assert_eq!(disk.metadata(), memory.metadata());
    assert_eq!(disk.tensors(), memory.tensors());
    for tensor in disk.tensors() {
        assert_eq!(disk.data(tensor), memory.data(tensor));
    }
    disk.verify_len().unwrap();
    memory.verify_len().unwrap();
    assert_eq!(disk.name(), path.display().to_string());
}

/// The size of the real model's file. The file is sparse, so this works where little disk is free.
#[test]
fn opening_a_huge_file_touches_only_its_header() {
    const ROWS: u64 = 20 << 20;
    let file = tempfile::NamedTempFile::new().unwrap();
    let header = common::Raw::new(1, 0).tensor("big", &[2048, ROWS], TensorType::F16.id(), 0).pad(32);
    std::fs::write(file.path(), &header.0).unwrap();
    if file.as_file().set_len(header.len() as u64 + 4096 * ROWS).is_err() {
        return; // this file system has no sparse files
    }
    let gguf = Gguf::open(file.path()).unwrap();
    let tensor = gguf.tensor("big").unwrap();
    let data = gguf.data(tensor);
    assert_eq!(data.len() as u64, 80 << 30);
    assert_eq!((data[0], data[data.len() - 1]), (0, 0));
}

/// Bytes built into a program have no particular alignment.
#[test]
fn bytes_may_be_unaligned() {
    let mut bytes = vec![0];
    bytes.extend(common::valid_file());
    let (aligned, shifted) = (common::valid_file(), &bytes.leak()[1..]);
    let aligned = Gguf::from_vec("a", aligned).unwrap();
    let shifted = Gguf::from_static("b", shifted).unwrap();
    for (a, b) in aligned.tensors().iter().zip(shifted.tensors()) {
        let n = a.n_elements() as usize;
        let (mut x, mut y) = (vec![0.0; n], vec![0.0; n]);
        ds4_gguf::quant::dequantize_row(a.ty, aligned.data(a), &mut x);
        ds4_gguf::quant::dequantize_row(b.ty, shifted.data(b), &mut y);
        assert!(x.iter().zip(&y).all(|(x, y)| x.to_bits() == y.to_bits()), "{}", a.ty);
    }
}

#[test]
fn threads_share_one_mapping() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), common::valid_file()).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    let sums: Vec<u64> = std::thread::scope(|scope| {
        let sum = |gguf: Gguf| {
            let tensor = gguf.tensor("Q8_0").unwrap();
            gguf.data(tensor).iter().map(|&b| u64::from(b)).sum()
        };
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let gguf = gguf.clone();
                scope.spawn(move || sum(gguf))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(sums[0] > 0 && sums.iter().all(|&s| s == sums[0]));
}

#[test]
fn advice_is_taken_or_ignored_but_never_fails() {
    use ds4_gguf::Access::*;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), common::valid_file()).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    let memory = Gguf::from_vec("memory", common::valid_file()).unwrap();
    for access in [Normal, Sequential, Random, WillNeed, HugePages] {
        gguf.advise_all(access);
        gguf.advise(&gguf.tensors()[3], access);
        memory.advise_all(access);
    }
    assert_eq!(gguf.data(&gguf.tensors()[3]), memory.data(&memory.tensors()[3]));
}

#[test]
fn an_unfinished_atomic_file_vanishes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    drop(file);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_atomic_file_needs_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model.gguf");
    let error = AtomicFile::create(&path).err().unwrap().to_string();
    assert!(error.contains("model.gguf: cannot create: "), "{error}");
}

#[test]
fn layouts_that_no_reader_would_accept_are_refused() {
    let metadata = Metadata::new("x");
    let mut layout = Layout::new(&metadata).unwrap();
    layout.push("a", TensorType::F32, &[16]).unwrap();
    let refused = [
        (layout.push("a", TensorType::F32, &[16]).map(|_| ()), "second time"),
        (layout.push("b", TensorType::F32, &[]).map(|_| ()), "0 dimensions"),
        (layout.push("b", TensorType::F32, &[1, 0]).map(|_| ()), "dimension 1"),
        (layout.push("b", TensorType::Q4_K, &[128]).map(|_| ()), "not a multiple"),
        (layout.push("b", TensorType::F32, &[1 << 62, 2]).map(|_| ()), "larger than any"),
        (layout.push("b", TensorType::I32, &[(1 << 61) - 1]).map(|_| ()), ""),
        (layout.push("c", TensorType::F32, &[1 << 61]).map(|_| ()), "larger than any"),
        (layout.push_at("d", TensorType::F32, &[1], 8), "alignment 32"),
        (layout.push_at("d", TensorType::F32, &[1], u64::MAX - 31), "bytes from byte"),
    ];
    for (result, reason) in refused {
        match (result, reason) {
            (Ok(()), "") => {}
            (Err(error @ Error::Unwritable { .. }), reason) if !reason.is_empty() => {
                let message = error.to_string();
                assert!(message.contains(reason), "{message:?} lacks {reason:?}");
            }
            (result, reason) => panic!("{result:?} instead of {reason:?}"),
        }
    }
    let mut odd = Metadata::new("x");
    odd.insert("general.alignment", Value::U32(12));
    assert!(matches!(Layout::new(&odd), Err(Error::Unwritable { .. })));
}

#[test]
fn data_is_demanded_in_order_and_in_full() {
    let metadata = Metadata::new("x");
    let mut layout = Layout::new(&metadata).unwrap();
    layout.push("a", TensorType::F32, &[2]).unwrap();
    layout.push("b", TensorType::F32, &[1]).unwrap();
    let mut writer = GgufWriter::new("out.gguf", Vec::new(), &metadata, layout).unwrap();
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(
        message(writer.write_tensor("b", &[0; 4])),
        "out.gguf: the next data to be written is that of \"a\", but \"b\" was given"
    );
    assert_eq!(
        message(writer.write_tensor("a", &[0; 7])),
        "out.gguf: the tensor \"a\" takes 8 bytes, but 7 were given"
    );
    writer.write_part("a", &[0; 5]).unwrap();
    assert_eq!(message(writer.write_part("a", &[0; 4])), "out.gguf: the tensor \"a\" takes 8 bytes, but 9 were given");
    writer.write_part("a", &[0; 3]).unwrap();
    assert_eq!(
        message(writer.finish().map(|_| ())),
        "out.gguf: the next data to be written is that of \"b\", but the end was given"
    );
}
