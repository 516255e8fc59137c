//! Encoder of IQ2_XXS: chooses grid rows, signs and scales so that the weighted squared error of a
//! block is small.
//!
//! For a given scale the best grid row of each octet is found exactly, including the constraint
//! that the number of minus signs is even. The scales are found by trying a range per group of 32,
//! then alternating between integer scales for a block scale and the block scale that fits them.

use half::f16;

use super::iq2_xxs::{GROUP_BYTES, GROUPS};
use super::iq2_xxs_grid::{GRID, MAGNITUDES, QUADS};

const LEN: usize = 256;
const GROUP: usize = 32;
const N_GROUPS: usize = LEN / GROUP;

/// Tried scales of a group, relative to its root mean square: a geometric row from 1/46 (all
/// elements alike) to 1/7.6 (a single outlier).
const TRIALS: usize = 7;
const FIRST_TRIAL: f32 = 1.0 / 46.0;
const TRIAL_RATIO: f32 = 1.32;

/// Encodes 256 finite elements `x` with the weights `w` into `block` (66 bytes).
pub(super) fn encode(x: &[f32], w: &[f32], block: &mut [u8]) {
    block.fill(0);
    let amax = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    if amax == 0.0 {
        return;
    }
    // Relative to the largest element, so that squares neither overflow nor vanish.
    let mut relative = [0.0f32; LEN];
    for (to, &from) in relative.iter_mut().zip(x) {
        *to = (f64::from(from) / f64::from(amax)) as f32;
    }
    let groups: [Group<'_>; N_GROUPS] =
        std::array::from_fn(|g| Group { x: &relative[GROUP * g..][..GROUP], w: &w[GROUP * g..][..GROUP] });
    let ideal = groups.map(|group| group.best_scale());
    let largest = ideal.iter().fold(0.0f32, |a, &t| a.max(t));

    let as_half = |d: f32| {
        let d = (f64::from(d) * f64::from(amax)).min(f16::MAX.to_f64());
        f16::from_f64(d)
    };
    let as_relative = |d: f16| (d.to_f64() / f64::from(amax)) as f32;

    let mut best: Option<(f16, Choice)> = None;
    let mut d = as_half(largest * 8.0 / 31.0);
    for _ in 0..4 {
        if d == f16::ZERO {
            break; // too small for the format: the zeroed block is the nearest one
        }
        let choice = Choice::new(&groups, &ideal, as_relative(d));
        if best.as_ref().is_some_and(|(_, b)| choice.error >= b.error) {
            break;
        }
        let fitted = as_half(choice.fitted_d());
        best = Some((d, choice));
        if fitted == d {
            break;
        }
        d = fitted;
    }
    if let Some((d, choice)) = best {
        block[..GROUPS].copy_from_slice(&d.to_le_bytes());
        for (fit, raw) in choice.fits.iter().zip(block[GROUPS..].chunks_exact_mut(GROUP_BYTES)) {
            raw[..4].copy_from_slice(&fit.1.rows);
            let codes = fit.1.signs.iter().enumerate();
            let packed =
                codes.fold(u32::from(fit.0) << 28, |packed, (o, &signs)| packed | u32::from(signs & 127) << (7 * o));
            raw[4..].copy_from_slice(&packed.to_le_bytes());
        }
    }
}

/// Integer scales and fits of a whole block for one block scale.
struct Choice {
    /// Integer scale `s` and fit of each group.
    fits: [(u8, Fit); N_GROUPS],
    error: f32,
}

impl Choice {
    fn new(groups: &[Group<'_>; N_GROUPS], ideal: &[f32; N_GROUPS], d: f32) -> Choice {
        let mut error = 0.0;
        let fits = std::array::from_fn(|g| {
            let centre = ((8.0 * ideal[g] / d - 1.0) / 2.0).round().clamp(0.0, 15.0) as u8;
            let mut best = (centre, groups[g].fit(d * scale_factor(centre)));
            for s in [centre.saturating_sub(1), (centre + 1).min(15)] {
                if s != centre {
                    let fit = groups[g].fit(d * scale_factor(s));
                    if fit.error < best.1.error {
                        best = (s, fit);
                    }
                }
            }
            error += best.1.error;
            best
        });
        Choice { fits, error }
    }

    /// The block scale with the least error for these integer scales and signed grid rows.
    fn fitted_d(&self) -> f32 {
        let (mut xy, mut yy) = (0.0, 0.0);
        for (s, fit) in &self.fits {
            let factor = scale_factor(*s);
            xy += factor * fit.xy;
            yy += factor * factor * fit.yy;
        }
        if yy > 0.0 { (xy / yy).max(0.0) } else { 0.0 }
    }
}

/// What a group's integer scale multiplies the block scale by.
fn scale_factor(s: u8) -> f32 {
    f32::from(2 * s + 1) * 0.125
}

/// 32 elements and their weights.
#[derive(Clone, Copy)]
struct Group<'a> {
    x: &'a [f32],
    w: &'a [f32],
}

/// The best encoding of a group for one scale.
#[derive(Clone, Copy, Default)]
struct Fit {
    rows: [u8; 4],
    /// All eight sign bits of each octet; the highest is implied by the others.
    signs: [u8; 4],
    error: f32,
    /// Weighted sums of `x y` and `y y`, where `y` are the signed magnitudes.
    xy: f32,
    yy: f32,
}

impl Group<'_> {
    /// The scale with the least error, over the trials and the least-squares scale after the best.
    fn best_scale(self) -> f32 {
        let power: f32 = self.x.iter().map(|x| x * x).sum();
        let rms = (power / GROUP as f32).sqrt();
        if rms == 0.0 {
            return 0.0;
        }
        let (mut best, mut best_fit) = (0.0, Fit { error: f32::INFINITY, ..Fit::default() });
        let mut t = rms * FIRST_TRIAL;
        for _ in 0..TRIALS {
            let fit = self.fit(t);
            if fit.error < best_fit.error {
                (best, best_fit) = (t, fit);
            }
            t *= TRIAL_RATIO;
        }
        for _ in 0..2 {
            if best_fit.xy <= 0.0 {
                break; // the weights vanish: no scale is better than another
            }
            let t = best_fit.xy / best_fit.yy;
            let fit = self.fit(t);
            if fit.error >= best_fit.error {
                break;
            }
            (best, best_fit) = (t, fit);
        }
        best
    }

    /// The best rows and signs for the scale `t`: `y = t * (+-magnitude)`.
    fn fit(self, t: f32) -> Fit {
        let mut fit = Fit::default();
        for (o, (x, w)) in self.x.chunks_exact(8).zip(self.w.chunks_exact(8)).enumerate() {
            let (row, signs) = best_row(x, w, t);
            (fit.rows[o], fit.signs[o]) = (row, signs);
            for (k, (&x, &w)) in x.iter().zip(w).enumerate() {
                let magnitude = f32::from(GRID[usize::from(row)][k]);
                let y = if signs >> k & 1 == 0 { magnitude } else { -magnitude };
                let e = t * y - x;
                fit.error += w * e * e;
                fit.xy += w * x * y;
                fit.yy += w * y * y;
            }
        }
        fit
    }
}

/// The grid row and signs with the least error for one octet.
///
/// With an odd number of negative elements one sign must be wrong. That costs `4 w |x| t m` more
/// at the element whose sign it is, so the best row minimizes the sum of its eight errors plus the
/// least of its eight surcharges. Both are looked up per half row: four elements with three
/// magnitudes each make 81 combinations.
fn best_row(x: &[f32], w: &[f32], t: f32) -> (u8, u8) {
    let mut signs = 0u8;
    for (k, x) in x.iter().enumerate() {
        signs |= u8::from(x.is_sign_negative()) << k;
    }
    let odd = signs.count_ones() % 2 == 1;
    let best = if odd { cheapest_row::<true>(x, w, t) } else { cheapest_row::<false>(x, w, t) };
    if odd {
        let surcharge = |k: usize| w[k] * x[k].abs() * f32::from(GRID[best][k]);
        let cheapest = (1..8).fold(0, |a, k| if surcharge(k) < surcharge(a) { k } else { a });
        signs ^= 1 << cheapest;
    }
    (best as u8, signs)
}

/// The row with the least error, with the surcharge of one wrong sign or without.
fn cheapest_row<const ODD: bool>(x: &[f32], w: &[f32], t: f32) -> usize {
    let low = Quad::new::<ODD>(&x[..4], &w[..4], t);
    let high = Quad::new::<ODD>(&x[4..], &w[4..], t);
    let (mut best, mut best_cost) = (0, f32::INFINITY);
    for (row, &[l, h]) in QUADS.iter().enumerate() {
        // The indices are below 81; the mask tells the compiler that they are below 128.
        let (l, h) = (usize::from(l & 127), usize::from(h & 127));
        let mut cost = low.error[l] + high.error[h];
        if ODD {
            cost += low.surcharge[l].min(high.surcharge[h]);
        }
        if cost < best_cost {
            (best, best_cost) = (row, cost);
        }
    }
    best
}

/// Error and least surcharge of each of the 81 combinations of four magnitudes.
/// Room for 128, so that an index of seven bits needs no check.
struct Quad {
    error: [f32; 128],
    surcharge: [f32; 128],
}

impl Quad {
    fn new<const ODD: bool>(x: &[f32], w: &[f32], t: f32) -> Quad {
        let mut quad = Quad { error: [0.0; 128], surcharge: [f32::INFINITY; 128] };
        // Grows from 1 to 81 combinations, one element at a time; the last element varies slowest.
        let mut n = 1;
        for (&x, &w) in x.iter().zip(w) {
            // From the largest magnitude down, because the smallest overwrites what is extended.
            for (m, &magnitude) in MAGNITUDES.iter().enumerate().rev() {
                let y = t * f32::from(magnitude);
                let e = y - x.abs();
                let (error, surcharge) = (w * e * e, 4.0 * w * x.abs() * y);
                for i in 0..n {
                    quad.error[m * n + i] = quad.error[i] + error;
                    if ODD {
                        quad.surcharge[m * n + i] = quad.surcharge[i].min(surcharge);
                    }
                }
            }
            n *= MAGNITUDES.len();
        }
        quad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every row and every even sign pattern.
    fn exhaustive(x: &[f32; 8], w: &[f32; 8], t: f32) -> f32 {
        let mut best = f32::INFINITY;
        for row in &GRID {
            for code in 0..128u8 {
                let signs = super::super::iq2_xxs::signs(code);
                let terms = (0..8).map(|k| {
                    let y = t * f32::from(row[k]);
                    let y = if signs >> k & 1 == 1 { -y } else { y };
                    w[k] * (y - x[k]) * (y - x[k])
                });
                best = best.min(terms.sum());
            }
        }
        best
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn the_best_row_is_the_best_of_all(
            x: [i8; 8],
            w in proptest::array::uniform8(0.01f32..4.0),
            t in 0.3f32..4.0,
        ) {
            let x = x.map(f32::from);
            let (row, signs) = best_row(&x, &w, t);
            assert_eq!(signs.count_ones() % 2, 0);
            let error: f32 = (0..8).map(|k| {
                let y = t * f32::from(GRID[usize::from(row)][k]);
                let y = if signs >> k & 1 == 1 { -y } else { y };
                w[k] * (y - x[k]) * (y - x[k])
            }).sum();
            let least = exhaustive(&x, &w, t);
            assert!(error <= least * 1.0001 + 1e-3, "{error} for {least}");
        }
    }
}
