//! Rotary position embedding on the last channels of a head.
//!
//! Pairs are adjacent channels. Layers with compression use another base and YaRN frequencies, without a
//! magnitude factor; layers without use the plain base.

use crate::Config;

/// One angular frequency per channel pair, for one kind of layer.
#[derive(Clone, Debug)]
pub struct Frequencies(Vec<f32>);

impl Frequencies {
    /// The frequencies of layers without compression: `base^(-2i/R)`.
    pub fn plain(config: &Config) -> Self {
        Self(geometric(config.rope_dim, config.rope_theta))
    }

    /// The frequencies of layers with compression: low frequencies divided by the YaRN factor, high ones
    /// kept, a linear ramp between the two corrections.
    pub fn compressed(config: &Config) -> Self {
        let n = config.rope_dim as f64;
        let base = f64::from(config.rope_theta_compressed);
        let original = config.yarn_original_length as f64;
        let correction = |rotations: f32| {
            n * (original / (f64::from(rotations) * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln())
        };
        let low = correction(config.yarn_beta_fast).floor().max(0.0) as f32;
        let high = correction(config.yarn_beta_slow).ceil().min(n - 1.0) as f32;
        let width = (high - low).max(0.001);
        let mut frequencies = geometric(config.rope_dim, config.rope_theta_compressed);
        for (i, f) in frequencies.iter_mut().enumerate() {
            let ramp = ((i as f32 - low) / width).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            *f = *f / config.yarn_factor * (1.0 - keep) + *f * keep;
        }
        Self(frequencies)
    }

    /// Writes `(cos, sin)` of every pair's angle at `position` into `out` [R/2].
    ///
    /// The angle is a float32 product on purpose, as in the published code: near position 10^6 it carries the
    /// rounding that the model saw. Cosine and sine of it are accurate.
    pub fn angles(&self, position: usize, out: &mut [(f32, f32)]) {
        for (slot, &f) in out.iter_mut().zip(&self.0) {
            let angle = f64::from(position as f32 * f);
            *slot = (angle.cos() as f32, angle.sin() as f32);
        }
    }

    /// Number of channel pairs.
    pub fn pairs(&self) -> usize {
        self.0.len()
    }

    /// The frequencies, [R/2].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

fn geometric(rope_dim: usize, base: f32) -> Vec<f32> {
    (0..rope_dim).step_by(2).map(|i| 1.0 / base.powf(i as f32 / rope_dim as f32)).collect()
}

/// Rotates the last `2 * angles.len()` channels of `head` forward.
pub fn rotate(head: &mut [f32], angles: &[(f32, f32)]) {
    let tail = head.len() - 2 * angles.len();
    for (pair, &(cos, sin)) in head[tail..].chunks_exact_mut(2).zip(angles) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

/// Rotates the last `2 * angles.len()` channels of `head` back.
pub fn rotate_back(head: &mut [f32], angles: &[(f32, f32)]) {
    let tail = head.len() - 2 * angles.len();
    for (pair, &(cos, sin)) in head[tail..].chunks_exact_mut(2).zip(angles) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos + b * sin;
        pair[1] = b * cos - a * sin;
    }
}
