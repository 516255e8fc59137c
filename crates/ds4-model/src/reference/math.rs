//! Scalar helpers: float32 in and out, float64 between.

/// `<a, b>`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side: one would wait for every addition.
    let mut sums = [0.0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum::<f64>() as f32
}

/// `x / sqrt(mean(x^2) + eps)`, in place.
pub fn rms(x: &mut [f32], eps: f32) {
    let mean = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
}

/// [`rms`] times a weight per channel.
pub fn rms_weighted(x: &mut [f32], weight: &[f32], eps: f32) {
    rms(x, eps);
    x.iter_mut().zip(weight).for_each(|(v, w)| *v *= w);
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f32) -> f32 {
    let x = f64::from(x);
    (x.max(0.0) + (-x.abs()).exp().ln_1p()) as f32
}

/// The `k` largest values' indices, the lower index first among equals, in descending order of value.
pub fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    // Adding zero makes -0 and +0 equal under the total order, which also puts up with NaN.
    let key = |i: u32| values[i as usize] + 0.0;
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    order.truncate(k);
    order
}
