//! Products: equal bits on every instruction set and in every shape, and the right numbers.

mod common;

use common::{BLOCK_TYPES, Random, bits};
use ds4_cpu::kernels::{
    Isa, Matrix, MatrixError, OutCols, QuantizedRows, Rows, matmul_f32, matmul_f32_in, matmul_i8, matmul_i8_in,
};
use ds4_cpu::pool::Pool;
use ds4_gguf::TensorType;
use ds4_gguf::quant::{self, activation::Activations};

/// Batch sizes around every register-tile edge.
const BATCHES: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 26, 33, 70];
/// Numbers of weight rows around the tile of sixteen.
const OUTS: [usize; 4] = [1, 16, 19, 50];

fn product_i8(isa: Isa, w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let n = x.len() / w.cols();
    let mut q = QuantizedRows::new();
    q.quantize(isa, x, w.cols());
    let mut y = vec![f32::NAN; n * w.rows()];
    matmul_i8(isa, w, 0..w.rows(), &q, Rows::All, &mut OutCols::whole(&mut y, w.rows()));
    y
}

fn product_f32(isa: Isa, w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.cols() * w.rows()];
    matmul_f32(isa, w, 0..w.rows(), x, Rows::All, &mut OutCols::whole(&mut y, w.rows()));
    y
}

#[test]
fn integer_products_equal_the_canonical_dot_on_every_instruction_set() {
    let mut random = Random::new(1);
    for ty in BLOCK_TYPES {
        for cols in [256, 768, 2304] {
            for out in OUTS {
                // One byte in front: weights in a file have no alignment to rely on.
                let mut bytes = vec![0];
                bytes.extend(random.weights(ty, out, cols));
                let w = Matrix::new(ty, out, cols, &bytes[1..]).unwrap();
                for n in BATCHES {
                    let x = random.activations(n * cols);
                    let reference = Activations::quantize(&x, cols);
                    let expected: Vec<f32> = (0..n)
                        .flat_map(|r| (0..out).map(move |o| (r, o)))
                        .map(|(r, o)| quant::dot(ty, w.row(o), reference.row(r)))
                        .collect();
                    for isa in Isa::available() {
                        let actual = product_i8(isa, &w, &x);
                        assert_eq!(bits(&actual), bits(&expected), "{ty} [{out}, {cols}] x {n} on {isa}");
                    }
                }
            }
        }
    }
}

/// One activation row may take a path of its own: every number of blocks around its pieces (16 groups, 128 groups), rows
/// around its sixteen, weights that lie at any address and end with their buffer.
#[test]
fn products_with_few_rows_equal_the_canonical_dot_on_every_instruction_set() {
    let mut random = Random::new(8);
    for ty in BLOCK_TYPES {
        let mut all_cols = vec![256, 512, 1280, 3840, 4096, 4352, 4608, 8192 + 256];
        if ty.block_len() == 32 {
            all_cols.extend([32, 96, 480, 544, 1056, 4064, 4128, 4096 + 544]);
        }
        for cols in all_cols {
            for out in [1, 5, 15, 16, 17, 33] {
                let front = random.below(64);
                let mut bytes = vec![0; front];
                bytes.extend(random.weights(ty, out, cols));
                bytes.shrink_to_fit();
                let w = Matrix::new(ty, out, cols, &bytes[front..]).unwrap();
                let x = random.activations(4 * cols);
                let reference = Activations::quantize(&x, cols);
                let dot = |(r, o)| quant::dot(ty, w.row(o), reference.row(r));
                let expected: Vec<f32> = (0..4).flat_map(|r| (0..out).map(move |o| (r, o))).map(dot).collect();
                for isa in Isa::available() {
                    for n in 1..=4 {
                        let actual = product_i8(isa, &w, &x[..n * cols]);
                        assert_eq!(bits(&actual), bits(&expected[..n * out]), "{ty} [{out}, {cols}] x {n} on {isa}");
                    }
                }
            }
        }
    }
}

/// Every row of the table and every sign code of IQ2_XXS, every scale and minimum of Q2_K, with activations that tell the
/// elements apart.
#[test]
fn every_code_of_a_block_is_decoded_on_every_instruction_set() {
    let cols = 256;
    let mut random = Random::new(9);
    let x: Vec<f32> = (0..cols).map(|i| ((i * 89 + 31) % 255) as f32 - 127.0).collect();
    let reference = Activations::quantize(&x, cols);
    for ty in BLOCK_TYPES {
        for code in 0..=255u8 {
            // The byte in every place but the scales of the blocks.
            let mut bytes = random.weights(ty, 16, cols);
            let scales = match ty {
                TensorType::Q2_K => 80..84,
                TensorType::Q4_K => 0..4,
                TensorType::MXFP4 => 0..1,
                _ => 0..2,
            };
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for (i, byte) in block.iter_mut().enumerate() {
                    *byte = if scales.contains(&i) { *byte } else { code.wrapping_add((i / 2 * 37) as u8) };
                }
            }
            let w = Matrix::new(ty, 16, cols, &bytes).unwrap();
            let expected: Vec<f32> = (0..16).map(|o| quant::dot(ty, w.row(o), reference.row(0))).collect();
            for isa in Isa::available() {
                assert_eq!(bits(&product_i8(isa, &w, &x)), bits(&expected), "{ty} {code:#x} on {isa}");
            }
        }
    }
}

/// The exponent 255 once gave NaN in integer products, 2^127 everywhere else.
#[test]
fn the_ends_of_the_exponents_of_mxfp4_are_exponents() {
    let (ty, cols) = (TensorType::MXFP4, 64);
    let mut random = Random::new(10);
    let x: Vec<f32> = random.activations(9 * cols).iter().map(|x| x * 1e-3).collect();
    let reference = Activations::quantize(&x, cols);
    for e in [0, 1, 2, 253, 254, 255] {
        let mut bytes = random.weights(ty, 19, cols);
        bytes.chunks_exact_mut(ty.block_bytes()).for_each(|block| block[0] = e);
        let w = Matrix::new(ty, 19, cols, &bytes).unwrap();
        let mut decoded = vec![0.0; cols];
        quant::dequantize_row(ty, w.row(0), &mut decoded);
        for isa in Isa::available() {
            for n in [1, 9] {
                let dot = |r: usize, o: usize| quant::dot(ty, w.row(o), reference.row(r));
                let expected: Vec<f32> = (0..n * 19).map(|i| dot(i / 19, i % 19)).collect();
                let actual = product_i8(isa, &w, &x[..n * cols]);
                assert_eq!(bits(&actual), bits(&expected), "exponent {e}, {n} rows on {isa}");
                assert!(actual.iter().all(|y| !y.is_nan()), "exponent {e}, {n} rows on {isa}");
            }
            let expected: Vec<f32> = vec![float_dot(&decoded, &x[..cols])];
            assert_eq!(bits(&product_f32(isa, &w, &x[..cols])[..1]), bits(&expected), "exponent {e} on {isa}");
        }
    }
}

/// The extreme code of every format against the extreme activations: where narrow intermediate sums overflow.
#[test]
fn integer_products_are_exact_at_the_extremes() {
    let cols = 512;
    for ty in BLOCK_TYPES {
        for fill in [0x00u8, 0x7f, 0x80, 0xff] {
            let mut bytes = vec![fill; 16 * cols / ty.block_len() * ty.block_bytes()];
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                let one = [0x00, 0x3c];
                match ty {
                    TensorType::MXFP4 => block[0] = 127,
                    TensorType::Q2_K => block[80..84].copy_from_slice(&[one, one].concat()),
                    TensorType::Q4_K => block[..4].copy_from_slice(&[one, one].concat()),
                    _ => block[..2].copy_from_slice(&one),
                }
            }
            let w = Matrix::new(ty, 16, cols, &bytes).unwrap();
            for signs in [[1.0f32, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                let x: Vec<f32> = (0..9 * cols).map(|i| signs[i % 2] * 127.0).collect();
                let reference = Activations::quantize(&x, cols);
                let expected = vec![quant::dot(ty, w.row(0), reference.row(0)); 9 * 16];
                for isa in Isa::available() {
                    assert_eq!(bits(&product_i8(isa, &w, &x)), bits(&expected), "{ty} {fill:#x} on {isa}");
                    assert_eq!(
                        bits(&product_i8(isa, &w, &x[..cols])),
                        bits(&expected[..16]),
                        "{ty} {fill:#x}, one row, on {isa}"
                    );
                }
            }
        }
    }
}

#[test]
fn activations_are_quantized_alike_on_every_instruction_set() {
    let mut random = Random::new(2);
    let cols = 96;
    let mut x = random.activations(40 * cols);
    let special = [
        0.0,
        -0.0,
        f32::from_bits(1),
        3e-37,
        4e-37,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for (i, special) in special.into_iter().enumerate() {
        x[(2 * i + 1) * 32..(2 * i + 2) * 32].fill(special);
        x[(2 * i + 30) * 32 + i] = special;
    }
    // Halves, which round away from zero.
    for i in 0..32 {
        x[25 * 32 + i] = if i == 0 { 127.0 } else { i as f32 - 15.5 };
    }
    let expected = Activations::quantize(&x, cols);
    let pool = Pool::new(2).unwrap();
    for isa in Isa::available() {
        let mut q = QuantizedRows::new();
        for pooled in [false, true] {
            match pooled {
                false => q.quantize(isa, &x, cols),
                true => q.quantize_in(&pool, isa, &x, cols),
            }
            for row in 0..40 {
                let (codes, d, sums) = q.parts(row);
                let reference = expected.row(row);
                assert_eq!(codes, reference.q, "row {row} on {isa}");
                assert_eq!(bits(d), bits(reference.d), "row {row} on {isa}");
                assert_eq!(sums, reference.sums, "row {row} on {isa}");
            }
        }
    }
}

/// The definition of a float product, written out.
fn float_dot(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (i, (w, x)) in w.iter().zip(x).enumerate() {
        lanes[i % 16] = w.mul_add(*x, lanes[i % 16]);
    }
    for distance in [8, 4, 2, 1] {
        for i in 0..distance {
            lanes[i] += lanes[i + distance];
        }
    }
    lanes[0]
}

#[test]
fn float_products_equal_the_definition_on_every_instruction_set() {
    let mut random = Random::new(3);
    for ty in TensorType::ALL.into_iter().filter(|&ty| ty != TensorType::I32) {
        let all_cols: &[usize] = if ty.block_len() == 1 { &[1, 15, 16, 31, 64, 200] } else { &[256, 512] };
        for &cols in all_cols {
            for out in OUTS {
                let mut bytes = vec![0];
                bytes.extend(random.weights(ty, out, cols));
                let w = Matrix::new(ty, out, cols, &bytes[1..]).unwrap();
                let mut decoded = vec![0.0; out * cols];
                for (o, row) in decoded.chunks_exact_mut(cols).enumerate() {
                    quant::dequantize_row(ty, w.row(o), row);
                }
                for n in BATCHES {
                    let x = random.activations(n * cols);
                    let expected: Vec<f32> = x
                        .chunks_exact(cols)
                        .flat_map(|x| decoded.chunks_exact(cols).map(move |w| float_dot(w, x)))
                        .collect();
                    for isa in Isa::available() {
                        let actual = product_f32(isa, &w, &x);
                        assert_eq!(bits(&actual), bits(&expected), "{ty} [{out}, {cols}] x {n} on {isa}");
                    }
                }
            }
        }
    }
}

#[test]
fn products_are_close_to_exact_arithmetic() {
    let mut random = Random::new(4);
    let (out, cols) = (19, 1024);
    for ty in TensorType::ALL.into_iter().filter(|&ty| ty != TensorType::I32) {
        let bytes = random.weights(ty, out, cols);
        let w = Matrix::new(ty, out, cols, &bytes).unwrap();
        let x = random.activations(cols);
        let mut decoded = vec![0.0; cols];
        let (y_f32, y_i8) = (
            product_f32(Isa::detect(), &w, &x),
            if ty.is_block_format() { product_i8(Isa::detect(), &w, &x) } else { vec![] },
        );
        for (o, &y) in y_f32.iter().enumerate() {
            quant::dequantize_row(ty, w.row(o), &mut decoded);
            let terms = || decoded.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let exact: f64 = terms().sum();
            let magnitude: f64 = terms().map(f64::abs).sum();
            // A lane adds cols / 16 terms, each with a relative error of 2^-24.
            let bound = magnitude * (cols / 16 + 4) as f64 * 2f64.powi(-24);
            assert!((f64::from(y) - exact).abs() <= bound, "{ty} row {o}: {y} {exact}");
            if let Some(&y) = y_i8.get(o) {
                // Each activation is off by at most half a step, 1/254 of its group's largest.
                let steps: f64 = decoded
                    .chunks_exact(32)
                    .zip(x.chunks_exact(32))
                    .map(|(w, x)| {
                        let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                        f64::from(largest) / 254.0 * w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
                    })
                    .sum();
                let minima_rounding = magnitude * 1e-3;
                assert!(
                    (f64::from(y) - exact).abs() <= steps * 1.001 + bound + minima_rounding,
                    "{ty} row {o}: {y} against {exact}"
                );
            }
        }
    }
}

#[test]
fn any_cut_and_any_choice_of_rows_gives_the_same_bits() {
    let mut random = Random::new(5);
    let (out, cols, n) = (83, 512, 23);
    for ty in [TensorType::Q8_0, TensorType::IQ2_XXS, TensorType::Q2_K, TensorType::F16] {
        let bytes = random.weights(ty, out, cols);
        let w = Matrix::new(ty, out, cols, &bytes).unwrap();
        let x = random.activations(n * cols);
        for isa in Isa::available() {
            let mut q = QuantizedRows::new();
            q.quantize(isa, &x, cols);
            let product = |range: std::ops::Range<usize>, rows: Rows<'_>, y: &mut OutCols<'_>| {
                if ty.is_block_format() {
                    matmul_i8(isa, &w, range, &q, rows, y);
                } else {
                    matmul_f32(isa, &w, range, &x, rows, y);
                }
            };
            let mut whole = vec![0.0; n * out];
            product(0..out, Rows::All, &mut OutCols::whole(&mut whole, out));

            // Columns in three uneven parts, of an array with room beside them.
            let ld = out + 5;
            let mut cut = vec![7.0; n * ld];
            for part in [0..1, 1..48, 48..out] {
                product(part.clone(), Rows::All, &mut OutCols::of(&mut cut, ld, part));
            }
            for (cut, whole) in cut.chunks_exact(ld).zip(whole.chunks_exact(out)) {
                assert_eq!(bits(&cut[..out]), bits(whole), "{ty} on {isa}");
                assert_eq!(cut[out..], [7.0; 5], "{ty} on {isa}: wrote beside its columns");
            }

            // Some rows, with repetition, to scattered places.
            let input = [4u32, 22, 4, 0, 9, 10, 11, 4, 21];
            let output = [3u32, 0, 11, 12, 5, 6, 7, 10, 1];
            let mut picked = vec![7.0; 14 * out];
            product(0..out, Rows::Map { input: &input, output: &output }, &mut OutCols::whole(&mut picked, out));
            for (row, picked) in picked.chunks_exact(out).enumerate() {
                match output.iter().position(|&o| o as usize == row) {
                    Some(i) => {
                        let from = input[i] as usize * out;
                        assert_eq!(bits(picked), bits(&whole[from..from + out]), "{ty} on {isa}");
                    }
                    None => assert_eq!(picked, vec![7.0; out], "{ty} on {isa}: wrote a row it was not told to"),
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let mut random = Random::new(6);
    let (out, cols, n) = (200, 512, 6);
    let bytes = random.weights(TensorType::Q4_K, out, cols);
    let w = Matrix::new(TensorType::Q4_K, out, cols, &bytes).unwrap();
    let x = random.activations(n * cols);
    let isa = Isa::detect();
    let mut q = QuantizedRows::new();
    q.quantize(isa, &x, cols);
    let (expected_i8, expected_f32) = (product_i8(isa, &w, &x), product_f32(isa, &w, &x));
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        let mut y = vec![0.0; n * out];
        matmul_i8_in(&pool, isa, &w, &q, Rows::All, &mut y, out);
        assert_eq!(bits(&y), bits(&expected_i8), "{threads} threads");
        y.fill(0.0);
        matmul_f32_in(&pool, isa, &w, &x, Rows::All, &mut y, out);
        assert_eq!(bits(&y), bits(&expected_f32), "{threads} threads");
    }
}

#[test]
fn a_defect_in_one_activation_row_stays_in_it() {
    let mut random = Random::new(7);
    let (out, cols) = (16, 256);
    let bytes = random.weights(TensorType::Q8_0, out, cols);
    let w = Matrix::new(TensorType::Q8_0, out, cols, &bytes).unwrap();
    let mut x = random.activations(3 * cols);
    x[cols + 5] = f32::NAN;
    for isa in Isa::available() {
        for y in [product_i8(isa, &w, &x), product_f32(isa, &w, &x)] {
            assert!(y[..out].iter().chain(&y[2 * out..]).all(|y| y.is_finite()), "{isa}");
            assert!(y[out..2 * out].iter().all(|y| y.is_nan()), "{isa}");
        }
    }
}

#[test]
fn a_matrix_knows_its_size() {
    let bytes = vec![0; 34 * 4];
    let message = |r: Result<Matrix<'_>, MatrixError>| r.map(|_| ()).unwrap_err().to_string();
    assert!(Matrix::new(TensorType::Q8_0, 2, 64, &bytes).is_ok());
    assert!(message(Matrix::new(TensorType::Q8_0, 2, 65, &bytes)).contains("65 elements"));
    assert!(message(Matrix::new(TensorType::Q8_0, 3, 64, &bytes)).contains("204 bytes, not 136"));
    assert!(message(Matrix::new(TensorType::Q8_0, usize::MAX, 64, &bytes)).contains("not 136"));
    assert!(message(Matrix::new(TensorType::I32, 2, 17, &bytes)).contains("tables"));
}

#[test]
#[should_panic(expected = "F16 weights have no integer product")]
fn float_weights_have_no_integer_product() {
    let bytes = vec![0; 64];
    let w = Matrix::new(TensorType::F16, 1, 32, &bytes).unwrap();
    product_i8(Isa::SCALAR, &w, &[0.0; 32]);
}

#[test]
#[should_panic(expected = "an activation row index is not below 2")]
fn a_row_index_out_of_range_is_refused() {
    let bytes = vec![0; 34];
    let w = Matrix::new(TensorType::Q8_0, 1, 32, &bytes).unwrap();
    let mut q = QuantizedRows::new();
    q.quantize(Isa::SCALAR, &[0.0; 64], 32);
    let mut y = [0.0; 2];
    let rows = Rows::Map { input: &[2], output: &[0] };
    matmul_i8(Isa::SCALAR, &w, 0..1, &q, rows, &mut OutCols::whole(&mut y, 1));
}
