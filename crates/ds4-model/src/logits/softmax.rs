//! Weights of tokens, exp((logit - max) / temperature), many at a time.
//!
//! A vocabulary has 129 280 tokens and every one of them a weight, so this is written for the compiler's vector instructions: sixteen
//! lanes, no branches, no fused multiply-add (which not every machine has). The order of every sum is fixed. A weight has the
//! same bits on every machine.

/// Lanes of a partial sum.
const LANES: usize = 16;
/// Logits whose weights are summed in float32, lane by lane, before they go on in float64.
pub const BLOCK: usize = 256;

/// Copies logits, NaN as -∞ and +∞ as the largest number, and finds the largest and its token, of equal ones the lowest
/// id; `None` if there is none above -∞.
pub fn copy_sane(logits: &[f32], work: &mut Vec<f32>) -> Option<(u32, f32)> {
    work.clear();
    work.extend(logits.iter().map(|&logit| sane(logit)));
    largest(work)
}

/// NaN as -∞, +∞ as the largest number.
pub fn sane(logit: f32) -> f32 {
    // The explicit case, because `f32::min` would turn a NaN into the largest number.
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

/// The largest logit and its token, of equal ones the lowest id; `None` if there is none above -∞. logits: no NaN.
pub fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    let max = max_of(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let block = logits.chunks(BLOCK).position(|block| block.contains(&max))?;
    let inside = logits[block * BLOCK..].iter().position(|&logit| logit == max)?;
    Some(((block * BLOCK + inside) as u32, max))
}

/// The largest logit, found lane by lane.
fn max_of(logits: &[f32]) -> f32 {
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &logit) in lanes.iter_mut().zip(block) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// What weights are relative to.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    max: f32,
    per_temperature: f32,
}

impl Softmax {
    /// Weights relative to a logit of `max`, finite, at a temperature above 0.
    pub fn new(max: f32, temperature: f64) -> Self {
        Self { max, per_temperature: Self::per_temperature(temperature) }
    }

    /// What differences of logits are multiplied by.
    pub fn per_temperature(temperature: f64) -> f32 {
        // A temperature so small that its inverse overflows leaves only the largest logit, as the largest number does.
        ((1.0 / temperature) as f32).min(f32::MAX)
    }

    /// The weight of a logit: 1 for `max`, 0 for -∞. Its relative error is below 2e-6 where the weight is above 1e-9.
    pub fn weight(&self, logit: f32) -> f32 {
        exp_not_above_0((logit - self.max) * self.per_temperature)
    }

    /// Sum of the weights of a block of at most [`BLOCK`] logits.
    pub fn block_sum(&self, block: &[f32]) -> f64 {
        let mut lanes = [0.0_f32; LANES];
        let (whole, rest) = block.as_chunks::<LANES>();
        for group in whole {
            for (lane, &logit) in lanes.iter_mut().zip(group) {
                *lane += self.weight(logit);
            }
        }
        let sum: f64 = lanes.iter().map(|&lane| f64::from(lane)).sum();
        rest.iter().fold(sum, |sum, &logit| sum + f64::from(self.weight(logit)))
    }

    /// Sum of the weights of all logits.
    pub fn sum(&self, logits: &[f32]) -> f64 {
        logits.chunks(BLOCK).map(|block| self.block_sum(block)).sum()
    }
}

/// e^x for x ≤ 0 (above, up to 88, it holds too); 0 below -87, where float32 has hardly anything left.
fn exp_not_above_0(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    /// Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let inside = if x > LOWEST { x } else { LOWEST };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (inside - n * LN_2_HIGH) - n * LN_2_LOW;
    // The series of e^r up to r^7; |r| ≤ ln 2 / 2 leaves 5e-9.
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    // n stands in the low bits of the shifted number; it goes to the exponent.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x > LOWEST { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn weights_are_the_exponential_function(x in -86.9_f32..=0.0) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_not_above_0(x)) - exact).abs() / exact;
            prop_assert!(error < 5e-7, "e^{x}: off by {error:e}");
        }

        #[test]
        fn the_largest_is_found(logits in prop::collection::vec(prop_oneof![
            8 => (-9_i8..9).prop_map(f32::from), 1 => Just(f32::NEG_INFINITY)], 0..1200)) {
            let naive = logits.iter().copied().enumerate().filter(|l| l.1 > f32::NEG_INFINITY)
                .fold(None, |best: Option<(usize, f32)>, l| if best.is_none_or(|b| l.1 > b.1) { Some(l) } else { best });
            prop_assert_eq!(largest(&logits), naive.map(|(token, logit)| (token as u32, logit)));
        }
    }

    #[test]
    fn the_ends_are_right() {
        let softmax = Softmax::new(f32::MAX, 1e-300);
        assert_eq!(softmax.weight(f32::MAX), 1.0);
        for far in [f32::NEG_INFINITY, f32::MIN, 0.0] {
            assert_eq!(softmax.weight(far), 0.0);
        }
        assert_eq!(Softmax::new(0.0, 1.0).weight(-87.5), 0.0);
    }

    #[test]
    fn sums_agree_with_plain_ones() {
        let logits: Vec<f32> =
            (0..129_280_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6 - 17.0).collect();
        let softmax = Softmax::new(0.0, 1.3);
        let plain: f64 = logits.iter().map(|&logit| (f64::from(logit) / 1.3).exp()).sum();
        assert!((softmax.sum(&logits) / plain - 1.0).abs() < 1e-6);
    }

    #[test]
    fn unusable_numbers_are_replaced() {
        let mut work = Vec::new();
        assert_eq!(copy_sane(&[f32::NAN, f32::INFINITY, 3.0], &mut work), Some((1, f32::MAX)));
        assert_eq!(work, [f32::NEG_INFINITY, f32::MAX, 3.0]);
        assert_eq!(copy_sane(&[f32::NAN, f32::NEG_INFINITY], &mut work), None);
    }
}
