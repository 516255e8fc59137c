//! Sums over a vector, and what is made of them.

use super::super::isa::per_isa;

const LANES: usize = 16;

/// Adds sixteen accumulators: distance 8, 4, 2, 1.
#[inline(always)]
pub(crate) fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    for distance in [8, 4, 2, 1] {
        for i in 0..distance {
            lanes[i] += lanes[i + distance];
        }
    }
    lanes[0]
}

/// Sixteen-lane sum of `term(i, accumulator)` over the indices of two vectors of one length.
#[inline(always)]
fn fold(a: &[f32], b: &[f32], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            acc[l] = term(a[l], b[l], acc[l]);
        }
    }
    if a_rest.is_empty() {
        return add_lanes(acc);
    }
    let (mut last_a, mut last_b) = ([0.0f32; LANES], [0.0f32; LANES]);
    last_a[..a_rest.len()].copy_from_slice(a_rest);
    last_b[..b_rest.len()].copy_from_slice(b_rest);
    for l in 0..LANES {
        acc[l] = term(last_a[l], last_b[l], acc[l]);
    }
    add_lanes(acc)
}

per_isa! {
    /// `sum x[i]`.
    pub fn sum(x: &[f32]) -> f32 = sum_body
}

#[inline(always)]
fn sum_body(x: &[f32]) -> f32 {
    fold(x, x, |x, _, acc| acc + x)
}

per_isa! {
    /// `sum x[i]^2`.
    pub fn sum_of_squares(x: &[f32]) -> f32 = sum_of_squares_body
}

#[inline(always)]
fn sum_of_squares_body(x: &[f32]) -> f32 {
    fold(x, x, |x, y, acc| x.mul_add(y, acc))
}

per_isa! {
    /// `sum a[i] b[i]`.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 = dot_body
}

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot product of vectors of different length");
    fold(a, b, |a, b, acc| a.mul_add(b, acc))
}

per_isa! {
    /// The largest element, negative infinity of nothing. NaN elements are passed over.
    pub fn max(x: &[f32]) -> f32 = max_body
}

#[inline(always)]
fn max_body(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for x in chunks {
        for l in 0..LANES {
            lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for &x in lanes.iter().chain(rest) {
        largest = if x > largest { x } else { largest };
    }
    largest
}

per_isa! {
    /// `1 / sqrt(mean(x^2) + eps)`.
    pub fn rms_factor(x: &[f32], eps: f32) -> f32 = rms_factor_body
}

#[inline(always)]
fn rms_factor_body(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares_body(x) / x.len() as f32 + eps).sqrt()
}

per_isa! {
    /// RMSNorm in place: `x = x / sqrt(mean(x^2) + eps)`, times a weight per element where there is one.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn rms_norm(x: &mut [f32], weight: Option<&[f32]>, eps: f32) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body(x: &mut [f32], weight: Option<&[f32]>, eps: f32) {
    let factor = rms_factor_body(x, eps);
    match weight {
        None => x.iter_mut().for_each(|x| *x *= factor),
        Some(weight) => {
            assert_eq!(x.len(), weight.len(), "norm weights of different length");
            x.iter_mut().zip(weight).for_each(|(x, weight)| *x = *x * factor * weight);
        }
    }
}
