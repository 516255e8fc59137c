//! Encoder of the formats whose sub-blocks have a scale and a minimum (Q2_K, Q4_K): chooses codes,
//! scales and minima so that the weighted squared error of a block is small.
//!
//! A sub-block decodes to `y = scale code - min`. Finding the best codes for a scale and a minimum
//! is rounding; finding the best scale and minimum for given codes is a 2 x 2 least-squares
//! problem. Alternating the two converges to a local optimum, so it is begun from several ranges.
//! The same alternation then runs over the whole block, where scales and minima are integers times
//! two half-precision numbers.

use half::f16;

/// What distinguishes the formats.
pub(super) struct Form {
    /// Elements per sub-block.
    pub sub: usize,
    /// Largest code.
    pub max_code: u8,
    /// Largest integer scale and minimum.
    pub max_scale: u8,
    /// How far the ends of the initial range are moved inwards, as fractions of the range. With few
    /// codes it pays to clip far outliers.
    pub shrinks: &'static [f64],
}

/// Elements in a block of either format.
pub(super) const LEN: usize = 256;
/// Most sub-blocks of a block.
const MAX_SUBS: usize = 16;

/// A block before it is packed.
pub(super) struct Encoded {
    pub d: f16,
    pub dmin: f16,
    /// Integer scale and minimum per sub-block.
    pub scales: [u8; MAX_SUBS],
    pub mins: [u8; MAX_SUBS],
    pub codes: [u8; LEN],
    /// Weighted squared error.
    error: f64,
}

/// Encodes 256 finite elements `x` with the weights `w`.
pub(super) fn encode(form: &Form, x: &[f32], w: &[f32]) -> Encoded {
    let mut ideal = [Affine::default(); MAX_SUBS];
    for ((x, w), affine) in x.chunks_exact(form.sub).zip(w.chunks_exact(form.sub)).zip(&mut ideal) {
        *affine = search(form, x, w);
    }
    let subs = &ideal[..LEN / form.sub];
    let largest = |get: fn(&Affine) -> f64| subs.iter().map(get).fold(0.0, f64::max);
    let (scale, min) = (largest(|a| a.scale), largest(|a| a.min));

    // The largest scale need not take the largest integer: other steps may suit the rest better.
    let mut best: Option<Encoded> = None;
    for reach in [1.0, 0.93, 0.86] {
        let top = f64::from(form.max_scale) * reach;
        let found = refine(form, x, w, subs, scale / top, min / f64::from(form.max_scale));
        if best.as_ref().is_none_or(|b| found.error < b.error) {
            best = Some(found);
        }
    }
    best.unwrap_or_else(|| assign(form, x, w, subs, f16::ZERO, f16::ZERO))
}

/// Alternates between choosing integers for given `d`, `dmin` and fitting `d`, `dmin` to them,
/// while the error falls.
fn refine(form: &Form, x: &[f32], w: &[f32], ideal: &[Affine], d: f64, dmin: f64) -> Encoded {
    let mut best = assign(form, x, w, ideal, to_f16(d), to_f16(dmin));
    for _ in 0..5 {
        let mut sums = Sums::default();
        for (i, (&x, &w)) in x.iter().zip(w).enumerate() {
            let b = i / form.sub;
            let u = f64::from(best.scales[b]) * f64::from(best.codes[i]);
            sums.add(x, w, u, f64::from(best.mins[b]));
        }
        let fitted = sums.solve();
        let (d, dmin) = (to_f16(fitted.scale), to_f16(fitted.min));
        if (d, dmin) == (best.d, best.dmin) {
            break;
        }
        let next = assign(form, x, w, ideal, d, dmin);
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    best
}

/// The best integers and codes near the ideal scales and minima for fixed `d` and `dmin`.
fn assign(form: &Form, x: &[f32], w: &[f32], ideal: &[Affine], d: f16, dmin: f16) -> Encoded {
    let mut out = Encoded { d, dmin, scales: [0; MAX_SUBS], mins: [0; MAX_SUBS], codes: [0; LEN], error: 0.0 };
    let (d, dmin) = (d.to_f64(), dmin.to_f64());
    let max = f64::from(form.max_scale);
    let steps = |value: f64, unit: f64| {
        let exact = if unit > 0.0 { value / unit } else { 0.0 };
        exact.round().clamp(0.0, max)
    };
    let mut codes = [0; LEN];
    for (b, (x, w)) in x.chunks_exact(form.sub).zip(w.chunks_exact(form.sub)).enumerate() {
        let codes = &mut codes[..form.sub];
        let mut best = f64::INFINITY;
        let centre = steps(ideal[b].scale, d);
        for scale in [centre - 1.0, centre, centre + 1.0] {
            if !(0.0..=max).contains(&scale) {
                continue;
            }
            // The minimum that suits this scale, given the codes that the ideal minimum gives.
            let step = d * scale;
            round_codes(form, x, step, ideal[b].min, codes);
            let wanted = best_min(x, w, step, codes);
            let low = steps(wanted - dmin / 2.0, dmin);
            for min in [low, (low + 1.0).min(max), steps(ideal[b].min, dmin)] {
                round_codes(form, x, step, dmin * min, codes);
                let error = error_of(x, w, step, dmin * min, codes);
                if error < best {
                    best = error;
                    out.scales[b] = scale as u8;
                    out.mins[b] = min as u8;
                    out.codes[b * form.sub..][..form.sub].copy_from_slice(codes);
                }
            }
        }
        out.error += best;
    }
    out
}

/// `y = scale code - min`; neither is negative.
#[derive(Clone, Copy, Default)]
struct Affine {
    scale: f64,
    min: f64,
}

/// The best real-valued scale and minimum found for one sub-block.
fn search(form: &Form, x: &[f32], w: &[f32]) -> Affine {
    let low = x.iter().fold(0.0f64, |a, &x| a.min(f64::from(x)));
    let high = x.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(f64::from(x)));
    if high <= low {
        // All zero, or one negative value everywhere: the minimum alone says it.
        return Affine { scale: 0.0, min: -low };
    }
    let range = high - low;
    let mut codes = [0; LEN];
    let codes = &mut codes[..x.len()];
    let (mut best, mut best_error) = (Affine::default(), f64::INFINITY);
    for &below in form.shrinks {
        for &above in form.shrinks {
            let mut affine = Affine {
                scale: range * (1.0 - below - above) / f64::from(form.max_code),
                min: (-(low + range * below)).max(0.0),
            };
            let mut error = f64::INFINITY;
            for _ in 0..8 {
                round_codes(form, x, affine.scale, affine.min, codes);
                let mut sums = Sums::default();
                for ((&x, &w), &code) in x.iter().zip(w).zip(&*codes) {
                    sums.add(x, w, f64::from(code), 1.0);
                }
                let fitted = sums.solve();
                let next = error_of(x, w, fitted.scale, fitted.min, codes);
                if next >= error {
                    break;
                }
                (affine, error) = (fitted, next);
            }
            if error < best_error {
                (best, best_error) = (affine, error);
            }
        }
    }
    best
}

fn round_codes(form: &Form, x: &[f32], step: f64, min: f64, codes: &mut [u8]) {
    let per_step = if step > 0.0 { 1.0 / step } else { 0.0 };
    let max = f64::from(form.max_code);
    for (code, &x) in codes.iter_mut().zip(x) {
        // Adding a half and truncating rounds; the cast saturates at 0.
        *code = ((f64::from(x) + min) * per_step + 0.5).min(max) as u8;
    }
}

fn error_of(x: &[f32], w: &[f32], step: f64, min: f64, codes: &[u8]) -> f64 {
    let terms = x.iter().zip(w).zip(codes).map(|((&x, &w), &code)| {
        let e = step * f64::from(code) - min - f64::from(x);
        f64::from(w) * e * e
    });
    terms.sum()
}

/// The minimum with the least error for given step and codes.
fn best_min(x: &[f32], w: &[f32], step: f64, codes: &[u8]) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for ((&x, &w), &code) in x.iter().zip(w).zip(codes) {
        sum += f64::from(w) * (step * f64::from(code) - f64::from(x));
        total += f64::from(w);
    }
    (sum / total).max(0.0)
}

/// Sums of the least-squares problem `x ~ scale u - min v`.
#[derive(Default)]
struct Sums {
    uu: f64,
    uv: f64,
    vv: f64,
    ux: f64,
    vx: f64,
}

impl Sums {
    fn add(&mut self, x: f32, w: f32, u: f64, v: f64) {
        let (x, w) = (f64::from(x), f64::from(w));
        self.uu += w * u * u;
        self.uv += w * u * v;
        self.vv += w * v * v;
        self.ux += w * u * x;
        self.vx += w * v * x;
    }

    /// The solution with neither unknown below zero.
    fn solve(&self) -> Affine {
        let det = self.uu * self.vv - self.uv * self.uv;
        if det > 1e-12 * self.uu * self.vv {
            let scale = (self.ux * self.vv - self.vx * self.uv) / det;
            let min = (self.ux * self.uv - self.vx * self.uu) / det;
            if scale >= 0.0 && min >= 0.0 {
                return Affine { scale, min };
            }
        }
        // On the boundary one of them is zero; take the one that explains more.
        let scale = if self.uu > 0.0 { (self.ux / self.uu).max(0.0) } else { 0.0 };
        let min = if self.vv > 0.0 { (-self.vx / self.vv).max(0.0) } else { 0.0 };
        if scale * self.ux >= min * -self.vx { Affine { scale, min: 0.0 } } else { Affine { scale: 0.0, min } }
    }
}

/// Nearest half-precision number, the largest one instead of infinity.
fn to_f16(x: f64) -> f16 {
    f16::from_f64(x.min(f16::MAX.to_f64()))
}
