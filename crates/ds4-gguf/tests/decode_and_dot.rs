//! Decoding and integer dot products against vectors made with an independent implementation;
//! `data/make_golden.py` says how.

use std::path::PathBuf;

use ds4_gguf::TensorType;
use ds4_gguf::quant::activation::Activations;
use ds4_gguf::quant::{dequantize_row, dot, validate};

const FORMATS: [TensorType; 5] =
    [TensorType::Q8_0, TensorType::Q2_K, TensorType::Q4_K, TensorType::IQ2_XXS, TensorType::MXFP4];

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = data(name);
    let (raw, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    raw.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn file(ty: TensorType, suffix: &str) -> String {
    format!("{}.{suffix}", ty.name().to_lowercase())
}

/// Reproducible noise in [-1, 1).
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn decoding_is_bit_exact() {
    for ty in FORMATS.into_iter().chain([TensorType::F16, TensorType::BF16]) {
        let blocks = data(&file(ty, "blocks"));
        let expected = floats(&file(ty, "f32"));
        assert!(expected.len() >= 8 * ty.block_len(), "{ty}");
        let mut y = vec![0.0; expected.len()];
        dequantize_row(ty, &blocks, &mut y);
        for (i, (y, e)) in y.iter().zip(&expected).enumerate() {
            assert_eq!(y.to_bits(), e.to_bits(), "{ty} element {i}: {y:e} for {e:e}");
        }
        // The reserved MXFP4 exponent decodes as the others do, but no encoder writes it.
        let reserved = blocks.chunks(17).position(|b| ty == TensorType::MXFP4 && b[0] == 255);
        assert_eq!(validate(ty, &blocks).err().map(|bad| bad.index), reserved, "{ty}");
    }
}

#[test]
fn plain_types_decode_to_their_values() {
    let mut y = [0.0; 3];
    let f32s: Vec<u8> = [1.5f32, -0.0, 3e-40].iter().flat_map(|x| x.to_le_bytes()).collect();
    dequantize_row(TensorType::F32, &f32s, &mut y);
    assert_eq!(y.map(f32::to_bits), [1.5f32, -0.0, 3e-40].map(f32::to_bits));
    let i32s: Vec<u8> = [7i32, -1, 1 << 24].iter().flat_map(|x| x.to_le_bytes()).collect();
    dequantize_row(TensorType::I32, &i32s, &mut y);
    assert_eq!(y, [7.0, -1.0, 16777216.0]);
}

#[test]
fn activation_quantization_is_bit_exact() {
    let x = floats("activations.f32");
    let a = Activations::quantize(&x, x.len());
    let row = a.row(0);
    let q: Vec<u8> = row.q.iter().map(|&q| q as u8).collect();
    assert_eq!(q, data("activations.q"));
    let bits = |d: &[f32]| d.iter().map(|d| d.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(row.d), bits(&floats("activations.d")));
}

#[test]
fn dot_products_are_bit_exact() {
    let x = floats("activations.f32");
    let a = Activations::quantize(&x, x.len());
    for ty in FORMATS {
        let rows = data(&file(ty, "rows"));
        let expected = floats(&file(ty, "dot"));
        let row_bytes = ty.row_bytes(x.len()).unwrap();
        assert_eq!(rows.len(), row_bytes * expected.len());
        for (i, (row, e)) in rows.chunks(row_bytes).zip(&expected).enumerate() {
            let y = dot(ty, row, a.row(0));
            assert_eq!(y.to_bits(), e.to_bits(), "{ty} row {i}: {y} for {e}");
        }
    }
}

/// The integer path computes the product of the decoded weights and the decoded activations.
#[test]
fn dot_products_agree_with_decoded_weights() {
    for ty in FORMATS {
        let rows = data(&file(ty, "rows"));
        let row_bytes = ty.row_bytes(512).unwrap();
        for (i, row) in rows.chunks(row_bytes).enumerate() {
            let a = Activations::quantize(&noise(512, i as u64), 512);
            let x = a.row(0);
            let mut w = vec![0.0; 512];
            dequantize_row(ty, row, &mut w);
            let (mut sum, mut magnitude) = (0.0f64, 0.0f64);
            for (k, w) in w.iter().enumerate() {
                let term = f64::from(*w) * f64::from(x.q[k]) * f64::from(x.d[k / 32]);
                sum += term;
                magnitude += term.abs();
            }
            let y = f64::from(dot(ty, row, x));
            assert!((y - sum).abs() <= 1e-6 * magnitude, "{ty} row {i}: {y} for {sum}");
        }
    }
}

#[test]
fn validation_names_the_first_bad_block() {
    let nan = 0x7e00u16.to_le_bytes();
    let cases: [(TensorType, usize, &[u8], &str); 9] = [
        (TensorType::Q8_0, 0, &nan, "scale"),
        (TensorType::Q2_K, 80, &nan, "scale"),
        (TensorType::Q2_K, 82, &nan, "scale"),
        (TensorType::Q4_K, 0, &nan, "scale"),
        (TensorType::Q4_K, 2, &nan, "scale"),
        (TensorType::IQ2_XXS, 0, &[0, 0x7c], "scale"),
        (TensorType::MXFP4, 0, &[255], "exponent 255"),
        (TensorType::F32, 0, &[0, 0, 0xc0, 0x7f], "not a number"),
        (TensorType::BF16, 0, &[0x80, 0xff], "infinite"),
    ];
    for (ty, at, bad, word) in cases {
        let size = ty.block_bytes();
        let mut bytes = vec![0; 5 * size];
        assert_eq!(validate(ty, &bytes), Ok(()));
        bytes[3 * size + at..][..bad.len()].copy_from_slice(bad);
        let error = validate(ty, &bytes).unwrap_err();
        assert_eq!((error.index, error.ty), (3, ty));
        let message = error.to_string();
        let unit = if ty.is_block_format() { "block" } else { "element" };
        let beginning = format!("{unit} 3 of type {ty} ");
        assert!(message.starts_with(&beginning), "{message}");
        assert!(message.contains(word), "{message}");
    }
}
