//! RMSNorm in place.

use crate::kernels::{Isa, math};

/// `1 / sqrt(mean(x^2) + eps)`.
pub(super) fn rms_factor(isa: Isa, x: &[f32], eps: f32) -> f32 {
    1.0 / (math::sum_of_squares(isa, x) / x.len() as f32 + eps).sqrt()
}

/// `x = x / sqrt(mean(x^2) + eps)`, times a weight per channel where there is one.
pub(super) fn rms_norm(isa: Isa, x: &mut [f32], weight: Option<&[f32]>, eps: f32) {
    let factor = rms_factor(isa, x, eps);
    math::scale(isa, factor, x);
    if let Some(weight) = weight {
        math::mul(isa, weight, x);
    }
}
