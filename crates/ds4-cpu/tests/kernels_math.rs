//! Vector functions: equal bits on every instruction set, accuracy against float64.

mod common;

use common::{Random, bits};
use ds4_cpu::kernels::{Isa, math};

/// Lengths around the sixteen lanes.
const LENGTHS: [usize; 9] = [0, 1, 7, 15, 16, 17, 33, 64, 500];

/// Error in units of the last place of the exact value.
fn ulps(actual: f32, exact: f64) -> f64 {
    let rounded = (exact as f32).abs().max(f32::MIN_POSITIVE);
    let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
    (f64::from(actual) - exact).abs() / ulp
}

/// Every 1009th float, a dense sweep of the interesting range, and the special values.
fn arguments() -> Vec<f32> {
    let spread = (0..u32::MAX / 1009).map(|i| f32::from_bits(i * 1009));
    let dense = (0..400_000).map(|i| (i as f32 - 200_000.0) / 1800.0);
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 88.722_84, 88.73];
    spread.step_by(4).chain(dense).chain(special).collect()
}

fn check_function(name: &str, function: impl Fn(Isa, &mut [f32]), exact: impl Fn(f64) -> f64, max_ulps: f64) {
    let x = arguments();
    let mut expected = x.clone();
    function(Isa::SCALAR, &mut expected);
    for isa in Isa::available() {
        let mut y = x.clone();
        function(isa, &mut y);
        assert!(bits(&y) == bits(&expected), "{name} differs on {isa}");
    }
    let mut worst = (0.0, 0.0);
    for (&x, &y) in x.iter().zip(&expected) {
        let exact = exact(f64::from(x));
        if exact.is_nan() {
            assert!(y.is_nan(), "{name}({x}) = {y}");
        } else if exact.abs() > f64::from(f32::MAX) {
            assert!(y.is_infinite() || ulps(y, f64::from(f32::MAX).copysign(exact)) < 4.0, "{name}({x}) = {y}");
        } else if ulps(y, exact) > worst.0 {
            worst = (ulps(y, exact), x);
        }
    }
    assert!(worst.0 <= max_ulps, "{name}({}) is off by {} ulp", worst.1, worst.0);
}

#[test]
fn exp_is_accurate() {
    check_function("exp", math::exp, f64::exp, 1.0);
}

#[test]
fn exp_at_its_limits() {
    let mut x = [f32::NEG_INFINITY, -104.1, -103.9, 0.0, 88.722_83, 88.722_84, 1e9, f32::INFINITY];
    math::exp(Isa::detect(), &mut x);
    let max = (f64::from(88.722_83f32)).exp() as f32;
    assert_eq!(x[..4], [0.0, 0.0, f32::from_bits(1), 1.0]);
    assert!((x[4] - max).abs() / max < 1e-6);
    assert_eq!(x[5..], [f32::INFINITY; 3]);
}

#[test]
fn sigmoid_is_accurate() {
    check_function("sigmoid", math::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 2.5);
}

#[test]
fn silu_is_accurate() {
    // Below -87.3, e^x is subnormal and has fewer digits to give: there the absolute error counts.
    let silu = |x: f64| if x == f64::NEG_INFINITY { 0.0 } else { x / (1.0 + (-x).exp()) };
    let in_normal_range = |isa: Isa, x: &mut [f32]| {
        math::silu(isa, x);
        for (y, x) in x.iter_mut().zip(arguments()).filter(|(_, x)| *x < -87.3) {
            assert!((f64::from(*y) - silu(f64::from(x))).abs() < 2e-43, "silu({x}) = {y}");
            *y = silu(f64::from(x)) as f32;
        }
    };
    check_function("silu", in_normal_range, silu, 3.0);
}

#[test]
fn softplus_is_accurate() {
    let softplus = |x: f64| if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() };
    check_function("softplus", math::softplus, softplus, 3.0);
}

#[test]
fn sums_follow_the_sixteen_lanes() {
    let mut random = Random::new(11);
    for n in LENGTHS {
        let (a, b) = (random.activations(n), random.activations(n));
        let by_lanes = |term: &dyn Fn(usize, f32) -> f32| {
            let mut lanes = [0.0f32; 16];
            for i in 0..n {
                lanes[i % 16] = term(i, lanes[i % 16]);
            }
            for distance in [8, 4, 2, 1] {
                for i in 0..distance {
                    lanes[i] += lanes[i + distance];
                }
            }
            lanes[0]
        };
        for isa in Isa::available() {
            let same = |name, actual: f32, expected: f32| {
                assert_eq!(actual.to_bits(), expected.to_bits(), "{name} of {n} on {isa}");
            };
            same("sum", math::sum(isa, &a), by_lanes(&|i, acc| acc + a[i]));
            same("dot", math::dot(isa, &a, &b), by_lanes(&|i, acc| a[i].mul_add(b[i], acc)));
            same("squares", math::sum_of_squares(isa, &a), by_lanes(&|i, acc| a[i].mul_add(a[i], acc)));
            same("max", math::max(isa, &a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));

            let mut e = a.clone();
            let sum = math::exp_sum(isa, &mut e, 1.5);
            same("exp_sum", sum, by_lanes(&|i, acc| acc + e[i]));
            let mut shifted: Vec<f32> = a.iter().map(|a| a - 1.5).collect();
            math::exp(isa, &mut shifted);
            assert_eq!(bits(&e), bits(&shifted), "exp_sum of {n} on {isa}");
        }
    }
}

#[test]
fn norms_are_alike_everywhere_and_accurate() {
    let mut random = Random::new(12);
    for n in LENGTHS.into_iter().filter(|&n| n > 0) {
        let (x, weight) = (random.activations(n), random.activations(n));
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
        let mut first: Option<[Vec<f32>; 2]> = None;
        for isa in Isa::available() {
            let (mut plain, mut weighted) = (x.clone(), x.clone());
            math::rms_norm(isa, &mut plain, None, 1e-6);
            math::rms_norm(isa, &mut weighted, Some(&weight), 1e-6);
            for i in 0..n {
                let exact = f64::from(x[i]) / (mean + 1e-6).sqrt();
                assert!((f64::from(plain[i]) - exact).abs() <= 1e-5 * exact.abs());
                let exact = exact * f64::from(weight[i]);
                assert!((f64::from(weighted[i]) - exact).abs() <= 1e-5 * exact.abs());
            }
            let both = [plain, weighted];
            if let Some(first) = &first {
                assert!(first.iter().zip(&both).all(|(a, b)| bits(a) == bits(b)), "rms_norm of {n} on {isa}");
            }
            first.get_or_insert(both);
        }
    }
}

#[test]
fn vector_updates_are_fused_and_alike() {
    let mut random = Random::new(13);
    for n in LENGTHS {
        let (x, y) = (random.activations(n), random.activations(n));
        for isa in Isa::available() {
            let applied = |f: &dyn Fn(&mut [f32])| {
                let mut y = y.clone();
                f(&mut y);
                bits(&y)
            };
            let expected = |f: &dyn Fn(f32, f32) -> f32| -> Vec<u32> {
                x.iter().zip(&y).map(|(&x, &y)| f(x, y).to_bits()).collect()
            };
            assert_eq!(applied(&|y| math::axpy(isa, 0.7, &x, y)), expected(&|x, y| 0.7f32.mul_add(x, y)));
            assert_eq!(applied(&|y| math::scale(isa, 0.7, y)), expected(&|_, y| y * 0.7));
            assert_eq!(applied(&|y| math::add(isa, &x, y)), expected(&|x, y| y + x));
            assert_eq!(applied(&|y| math::mul(isa, &x, y)), expected(&|x, y| y * x));
        }
    }
}

#[test]
fn weighted_sums_take_rows_in_order() {
    let mut random = Random::new(14);
    for (heads, n, dim) in [(1, 1, 1), (3, 5, 31), (4, 0, 32), (5, 17, 64), (8, 40, 100), (9, 3, 512)] {
        let ld = n + 2;
        let (p, v) = (random.activations(heads * ld), random.activations(n * dim));
        let start = random.activations(heads * dim);
        let mut expected = start.clone();
        for h in 0..heads {
            for k in 0..n {
                for c in 0..dim {
                    let out = &mut expected[h * dim + c];
                    *out = p[h * ld + k].mul_add(v[k * dim + c], *out);
                }
            }
        }
        for isa in Isa::available() {
            let mut out = start.clone();
            math::weighted_sum(isa, &p, ld, &v, dim, &mut out);
            assert_eq!(bits(&out), bits(&expected), "{heads} heads, {n} rows of {dim} on {isa}");
        }
    }
}

#[test]
fn swiglu_clamps_the_gate_above_and_up_on_both_sides() {
    let gate = [20.0, 10.0, -20.0, 1.0, f32::NAN, 2.0];
    let up = [1.0, 50.0, -50.0, 0.5, 1.0, f32::NAN];
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let exact = [silu(10.0) * 2.0, silu(10.0) * 20.0, silu(-20.0) * -20.0, silu(1.0)];
    for isa in Isa::available() {
        let mut out = [0.0; 6];
        math::swiglu(isa, &gate, &up, 10.0, 2.0, &mut out);
        for (out, exact) in out.iter().zip(exact) {
            assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs(), "{out} {exact} on {isa}");
        }
        assert!(out[4].is_nan() && out[5].is_nan());
    }
}

#[test]
fn half_precision_numbers_decode_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let half: Vec<f32> = (0..=u16::MAX).map(|b| half::f16::from_bits(b).to_f32()).collect();
    let brain: Vec<f32> = (0..=u16::MAX).map(|b| half::bf16::from_bits(b).to_f32()).collect();
    for isa in Isa::available() {
        // All lengths modulo the vector width, to pass through the tails.
        for skip in 0..9 {
            let mut out = vec![0.0; half.len() - skip];
            math::f16_to_f32(isa, &bytes[2 * skip..], &mut out);
            assert!(bits(&out) == bits(&half[skip..]), "f16 on {isa}");
            math::bf16_to_f32(isa, &bytes[2 * skip..], &mut out);
            assert!(bits(&out) == bits(&brain[skip..]), "bf16 on {isa}");
        }
    }
}

#[test]
fn merged_streams_are_sums_in_the_order_of_the_streams() {
    let mut random = Random::new(17);
    for hc in [1, 2, 4, 5] {
        for n in [1, 15, 16, 40] {
            let (y, post) = (random.activations(n), random.activations(hc));
            let (comb, streams) = (random.activations(hc * hc), random.activations(hc * n));
            let merged = |k: usize, i: usize| {
                (0..hc).fold(y[i] * post[k], |sum, j| comb[j * hc + k].mul_add(streams[j * n + i], sum))
            };
            let expected: Vec<u32> =
                (0..hc).flat_map(|k| (0..n).map(move |i| (k, i))).map(|(k, i)| merged(k, i).to_bits()).collect();
            for isa in Isa::available() {
                let mut actual = streams.clone();
                math::merge_streams(isa, &y, &post, &comb, &mut actual);
                assert_eq!(bits(&actual), expected, "{hc} streams of {n} on {isa}");
            }
        }
    }
}

#[test]
fn fp8_rows_decode_exactly() {
    let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    let value = |code: u8| {
        let (e, m) = (i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = if e == 0 { m * 2f64.powi(-9) } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
        if code & 0x80 == 0 { magnitude } else { -magnitude }
    };
    for isa in Isa::available() {
        for e in [0u8, 1, 100, 126, 127, 140, 200, 254] {
            let exponents = [e, e.saturating_add(1).min(254), e, e];
            let mut out = vec![0.0; codes.len()];
            math::decode_fp8(isa, &codes, &exponents, 64, &mut out);
            for (i, (&code, &out)) in codes.iter().zip(&out).enumerate() {
                let expected = (value(code) * 2f64.powi(i32::from(exponents[i / 64]) - 127)) as f32;
                assert_eq!(out, expected, "code {code:#x} exponent {e} on {isa}");
            }
        }
    }
}

#[test]
fn fp4_rows_decode_exactly() {
    const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut random = Random::new(15);
    let codes: Vec<u8> = (0..64).map(|_| random.u64() as u8).collect();
    for isa in Isa::available() {
        for e in [0u8, 1, 2, 127, 253, 254] {
            let mut out = [0.0; 128];
            math::decode_fp4(isa, &codes, &[e; 4], &mut out);
            for (i, &out) in out.iter().enumerate() {
                let code = if i % 2 == 0 { codes[i / 2] & 15 } else { codes[i / 2] >> 4 };
                let value = VALUES[usize::from(code & 7)] * if code < 8 { 1.0 } else { -1.0 };
                assert_eq!(out, (value * 2f64.powi(i32::from(e) - 127)) as f32, "element {i} exponent {e} on {isa}");
            }
        }
    }
}
