//! The exponential and the activation functions made from it.

use super::super::isa::per_isa;
use super::add_lanes;

const LANES: usize = 16;

/// e^x within 1 ulp; 0 below -104, infinity above 88.73, NaN of NaN.
///
/// `x = n ln 2 + r` with |r| <= ln 2 / 2; `e^r` by its series to the seventh power (the remainder is below
/// 0.05 ulp); `2^n` in two factors, so that subnormal results are rounded once.
#[inline(always)]
fn exp_one(x: f32) -> f32 {
    /// Adding and subtracting it rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough for exact products with `n`.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Beyond these the result is infinity or 0 anyway; NaN passes both comparisons.
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -105.0 { -105.0 } else { clamped };
    let n = clamped.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = n.mul_add(-LN2_HI, clamped);
    let r = n.mul_add(-LN2_LO, r);
    let mut p = 1.0 / 5040.0f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0f32] {
        p = p.mul_add(r, c);
    }
    // `as` would check for NaN and range; n is a small integer unless x is NaN, where any factor will do.
    let n = (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let first = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(first) * power(n.wrapping_sub(first))
}

/// ln(1 + y) for y in 0..=1, within 2 ulp: 2 artanh(y / (2 + y)) by its series.
#[inline(always)]
fn ln_1p_unit(y: f32) -> f32 {
    let s = y / (2.0 + y);
    let s2 = s * s;
    let mut p = 1.0 / 17.0f32;
    for c in [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0f32] {
        p = p.mul_add(s2, c);
    }
    let twice = 2.0 * s;
    (twice * s2).mul_add(p, twice)
}

/// Applies `f` to every element in chunks that vectorize; the tail goes through the same code.
#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for x in chunk {
            *x = f(*x);
        }
    }
    for x in rest {
        *x = f(*x);
    }
}

per_isa! {
    /// `x = e^x`, within 1 ulp.
    pub fn exp(x: &mut [f32]) = exp_body
}

#[inline(always)]
fn exp_body(x: &mut [f32]) {
    map(x, exp_one);
}

per_isa! {
    /// `x = e^(x - shift)`; returns the sum (sixteen lanes, zeros beyond the end). With `shift` = the largest element
    /// this is the numerator and the denominator of a softmax.
    pub fn exp_sum(x: &mut [f32], shift: f32) -> f32 = exp_sum_body
}

#[inline(always)]
fn exp_sum_body(x: &mut [f32], shift: f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut acc = [0.0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            chunk[l] = exp_one(chunk[l] - shift);
            acc[l] += chunk[l];
        }
    }
    for (x, acc) in rest.iter_mut().zip(&mut acc) {
        *x = exp_one(*x - shift);
        *acc += *x;
    }
    add_lanes(acc)
}

per_isa! {
    /// `x = 1 / (1 + e^-x)`.
    pub fn sigmoid(x: &mut [f32]) = sigmoid_body
}

#[inline(always)]
fn sigmoid_body(x: &mut [f32]) {
    map(x, sigmoid_one);
}

/// With e = e^-|x|, at most 1, nothing overflows and small results keep their precision.
#[inline(always)]
fn sigmoid_one(x: f32) -> f32 {
    let e = exp_one(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// x sigmoid(x); 0 for negative infinity.
#[inline(always)]
fn silu_one(x: f32) -> f32 {
    let e = exp_one(-x.abs());
    // The factor e is 0 below -104; this keeps infinity from meeting it.
    let x = if x < -200.0 { -200.0 } else { x };
    (if x < 0.0 { x * e } else { x }) / (1.0 + e)
}

per_isa! {
    /// `x = x / (1 + e^-x)`.
    pub fn silu(x: &mut [f32]) = silu_body
}

#[inline(always)]
fn silu_body(x: &mut [f32]) {
    map(x, silu_one);
}

per_isa! {
    /// `x = ln(1 + e^x)`, within 3 ulp everywhere, also where `e^x` is tiny or huge.
    pub fn softplus(x: &mut [f32]) = softplus_body
}

#[inline(always)]
fn softplus_body(x: &mut [f32]) {
    // ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)
    map(x, |x| {
        let positive = if x < 0.0 { 0.0 } else { x };
        positive + ln_1p_unit(exp_one(-x.abs()))
    });
}

per_isa! {
    /// The clamped SwiGLU of the experts, times the routing weight:
    /// `out = silu(min(gate, limit)) * clamp(up, -limit, limit) * weight`. All of one length.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn swiglu(gate: &[f32], up: &[f32], limit: f32, weight: f32, out: &mut [f32]) = swiglu_body
}

#[inline(always)]
fn swiglu_body(gate: &[f32], up: &[f32], limit: f32, weight: f32, out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and result of different length");
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        // Written so that NaN stays NaN.
        let gate = if gate > limit { limit } else { gate };
        let up = if up > limit { limit } else { up };
        let up = if up < -limit { -limit } else { up };
        *out = silu_one(gate) * up * weight;
    }
}
