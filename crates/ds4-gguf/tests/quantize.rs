//! The encoders: error, use of importance, extremes.

use std::path::PathBuf;

use ds4_gguf::TensorType;
use ds4_gguf::quant::{NotFinite, dequantize_row, quantize_row, validate};
use proptest::prelude::*;

const FORMATS: [TensorType; 5] =
    [TensorType::Q8_0, TensorType::Q2_K, TensorType::Q4_K, TensorType::IQ2_XXS, TensorType::MXFP4];

/// Reproducible noise, nearly Gaussian with variance 1.
fn gaussian(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

fn encode(ty: TensorType, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xAA; ty.row_bytes(x.len()).unwrap()];
    quantize_row(ty, x, importance, &mut out).unwrap();
    out
}

fn decode(ty: TensorType, blocks: &[u8], n: usize) -> Vec<f32> {
    let mut y = vec![0.0; n];
    dequantize_row(ty, blocks, &mut y);
    y
}

fn round_trip(ty: TensorType, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    decode(ty, &encode(ty, x, importance), x.len())
}

/// Weighted root mean square error relative to the data's.
fn relative_error(x: &[f32], y: &[f32], w: impl Fn(usize) -> f64) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
        error += w(i) * (f64::from(x) - f64::from(y)).powi(2);
        power += w(i) * f64::from(x).powi(2);
    }
    (error / power).sqrt()
}

/// The bounds lie a little above what these encoders reach, and below what the encoders in common
/// use reach on Gaussian data (Q2_K 0.295, Q4_K 0.0709, IQ2_XXS 0.343, MXFP4 0.115).
#[test]
fn error_on_gaussian_data() {
    let x = gaussian(256 * 64, 1);
    let bounds = [0.0055, 0.262, 0.0697, 0.330, 0.113];
    for (ty, bound) in FORMATS.into_iter().zip(bounds) {
        let error = relative_error(&x, &round_trip(ty, &x, None), |_| 1.0);
        assert!(error < bound, "{ty}: {error}");
    }
}

#[test]
fn importance_lowers_the_error_that_it_weighs() {
    let x = gaussian(256 * 32, 2);
    let importance: Vec<f32> = gaussian(x.len(), 3).iter().map(|g| g.exp()).collect();
    let weight = |i: usize| f64::from(importance[i]);
    // Ratios reached: Q2_K 0.87, Q4_K 0.91, IQ2_XXS 0.83, MXFP4 0.99.
    for (ty, gain) in
        [(TensorType::Q2_K, 0.90), (TensorType::Q4_K, 0.94), (TensorType::IQ2_XXS, 0.87), (TensorType::MXFP4, 1.0)]
    {
        let without = relative_error(&x, &round_trip(ty, &x, None), weight);
        let with = relative_error(&x, &round_trip(ty, &x, Some(&importance)), weight);
        assert!(with < without * gain, "{ty}: {with} with, {without} without");
    }
}

#[test]
fn importance_that_says_nothing_changes_nothing() {
    let x = gaussian(512, 4);
    for ty in FORMATS {
        let plain = encode(ty, &x, None);
        for nothing in [0.0, 1.0, 7.5, -1.0, f32::NAN, f32::INFINITY] {
            let importance = vec![nothing; x.len()];
            assert_eq!(encode(ty, &x, Some(&importance)), plain, "{ty} {nothing}");
        }
    }
}

#[test]
fn q8_0_follows_the_reference_rule() {
    let data = |name: &str| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        std::fs::read(folder.join(name)).unwrap()
    };
    let raw = data("activations.f32");
    let x: Vec<f32> = raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(encode(TensorType::Q8_0, &x, None), data("q8_0.encoded"));
}

/// Weights that were trained in FP4 lose nothing.
#[test]
fn mxfp4_returns_representable_blocks() {
    let values = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let noise = gaussian(32 * 200, 5);
    let x: Vec<f32> = noise
        .iter()
        .enumerate()
        .map(|(i, g)| {
            let block = i / 32;
            let largest = 1 + block % 7; // some blocks use the small values only
            let value = values[(g.abs() * 1000.0) as usize % (largest + 1)];
            (value * 2f32.powi(block as i32 % 60 - 30)).copysign(*g)
        })
        .collect();
    assert_eq!(round_trip(TensorType::MXFP4, &x, None), x);
}

#[test]
fn plain_types_round_to_nearest_even() {
    let x = [1.0f32, 1.0 + f32::powi(2.0, -8), 1.0 + 3.0 * f32::powi(2.0, -8), -1e38];
    assert_eq!(round_trip(TensorType::F32, &x, None), x);
    let bf16 = round_trip(TensorType::BF16, &x, None);
    assert_eq!(bf16[..3], [1.0, 1.0, 1.0 + f32::powi(2.0, -6)]);
    assert_eq!(round_trip(TensorType::F16, &[1.0 + f32::powi(2.0, -11), 6e-8], None), [1.0, f32::powi(2.0, -24)]);
    assert_eq!(round_trip(TensorType::I32, &[2.5, -7.0, 1e20], None), [3.0, -7.0, i32::MAX as f32]);
}

#[test]
fn special_blocks() {
    let single = |at: usize, v: f32| {
        let mut x = [0.0f32; 256];
        x[at] = v;
        x
    };
    for ty in FORMATS {
        assert_eq!(round_trip(ty, &[0.0; 256], None), [0.0; 256], "{ty} zero");
        assert_eq!(round_trip(ty, &[-0.0; 256], None), [0.0; 256], "{ty} negative zero");
        for value in [3.0, -3.0] {
            let y = round_trip(ty, &[value; 256], None);
            let error = relative_error(&[value; 256], &y, |_| 1.0);
            assert!(error < 0.08, "{ty} constant {value}: {error}");
            let x = single(77, value);
            let error = relative_error(&x, &round_trip(ty, &x, None), |_| 1.0);
            // IQ2_XXS cannot represent zeros beside an outlier, the others can.
            let bound = if ty == TensorType::IQ2_XXS { 0.8 } else { 0.08 };
            assert!(error < bound, "{ty} single {value}: {error}");
        }
    }
}

#[test]
fn elements_that_are_not_finite_are_refused() {
    for ty in TensorType::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 512];
            x[300] = bad;
            let mut out = vec![0; ty.row_bytes(512).unwrap()];
            let result = quantize_row(ty, &x, None, &mut out);
            assert_eq!(result, Err(NotFinite { index: 300 }), "{ty}");
        }
    }
}

/// 4 * 2^126 is infinite, so the exponent above the standard one must not be tried here.
#[test]
fn mxfp4_of_the_largest_floats_stays_finite() {
    for value in [f32::MAX, f32::MIN, 3.0e38, 2.9e38] {
        let y = round_trip(TensorType::MXFP4, &[value; 32], None);
        assert!(y.iter().all(|y| y.is_finite() && y / value > 0.7), "{y:?}");
    }
}

fn any_finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -4.0f32..4.0,
        1 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite()),
        1 => Just(0.0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is encoded is valid, and what a format can represent is not worse than zeros.
    #[test]
    fn any_finite_data(
        x in proptest::collection::vec(any_finite(), 256),
        importance in proptest::option::of(proptest::collection::vec(any_finite(), 256)),
    ) {
        let ordinary = x.iter().all(|x| *x == 0.0 || (1e-2..1e4).contains(&x.abs()));
        for ty in FORMATS {
            let blocks = encode(ty, &x, importance.as_deref());
            prop_assert_eq!(validate(ty, &blocks), Ok(()));
            let y = decode(ty, &blocks, x.len());
            prop_assert!(y.iter().all(|y| y.is_finite()), "{}", ty);
            if ordinary && importance.is_none() && x.iter().any(|&x| x != 0.0) {
                let error = relative_error(&x, &y, |_| 1.0);
                prop_assert!(error < 1.0, "{}: {}", ty, error);
            }
        }
    }

    #[test]
    fn ordinary_data_of_any_magnitude(seed: u64, log2 in -8i32..12) {
        let scale = 2f32.powi(log2);
        let x: Vec<f32> = gaussian(256, seed).iter().map(|x| x * scale).collect();
        for (ty, bound) in FORMATS.into_iter().zip([0.01, 0.32, 0.09, 0.40, 0.15]) {
            let error = relative_error(&x, &round_trip(ty, &x, None), |_| 1.0);
            prop_assert!(error < bound, "{}: {}", ty, error);
        }
    }
}
