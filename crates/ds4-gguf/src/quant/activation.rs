//! Activations as signed bytes, one scale per group of 32: the right-hand side of the integer dot
//! products.

/// Elements that share a scale.
pub const GROUP: usize = 32;
/// Elements that share a sum; Q2_K has a minimum for each 16.
pub const SUM_GROUP: usize = 16;

/// Quantized rows of one length.
///
/// With `amax` the largest magnitude of a group: `d = amax / 127`, `id = 127 / amax`,
/// `q = round(x * id)` with halves away from zero, all in `f32`. Two kinds of groups are special:
/// - `amax` so small that `id` is infinite (below 3.8e-37), zero included: `d = 0`, `q = 0`;
/// - a NaN or an infinity among the elements: `d = NaN`, `q = 0`, so that the defect stays visible
///   in every result that the group touches.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    row_len: usize,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
}

impl Activations {
    /// Quantizes `x`: `[rows, row_len]`, row-major.
    ///
    /// # Panics
    /// If `row_len` is 0 or not a multiple of 32, or `x` is not a whole number of rows.
    pub fn quantize(x: &[f32], row_len: usize) -> Activations {
        assert!(
            row_len > 0 && row_len.is_multiple_of(GROUP) && x.len().is_multiple_of(row_len),
            "rows of {row_len} elements in {}: activations come in whole groups of {GROUP}",
            x.len()
        );
        let mut out = Activations {
            row_len,
            q: vec![0; x.len()],
            d: vec![0.0; x.len() / GROUP],
            sums: vec![0; x.len() / SUM_GROUP],
        };
        quantize_into(x, &mut out.q, &mut out.d, &mut out.sums);
        out
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.q.len().checked_div(self.row_len).unwrap_or(0)
    }

    /// Row number `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> ActivationRow<'_> {
        let all = ActivationRow { q: &self.q, d: &self.d, sums: &self.sums };
        all.slice(i * self.row_len, self.row_len)
    }
}

/// One quantized row, or a run of whole groups of it.
#[derive(Clone, Copy, Debug)]
pub struct ActivationRow<'a> {
    /// The codes, `[len]`.
    pub q: &'a [i8],
    /// The scale of each 32 codes, `[len / 32]`.
    pub d: &'a [f32],
    /// The sum of each 16 codes, `[len / 16]`.
    pub sums: &'a [i16],
}

impl<'a> ActivationRow<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.q.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    /// `len` elements from `begin`; both are multiples of 32.
    pub fn slice(&self, begin: usize, len: usize) -> ActivationRow<'a> {
        ActivationRow {
            q: &self.q[begin..][..len],
            d: &self.d[begin / GROUP..][..len / GROUP],
            sums: &self.sums[begin / SUM_GROUP..][..len / SUM_GROUP],
        }
    }
}

/// Quantizes into caller-owned arrays: `q [n]`, `d [n / 32]`, `sums [n / 16]` for `x [n]`.
/// The rule is on [`Activations`].
///
/// # Panics
/// If the lengths do not go together.
pub fn quantize_into(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    assert!(
        x.len().is_multiple_of(GROUP)
            && q.len() == x.len()
            && d.len() == x.len() / GROUP
            && sums.len() == x.len() / SUM_GROUP,
        "{} activations with room for {} codes, {} scales and {} sums",
        x.len(),
        q.len(),
        d.len(),
        sums.len()
    );
    for ((x, q), d) in x.chunks_exact(GROUP).zip(q.chunks_exact_mut(GROUP)).zip(d.iter_mut()) {
        *d = quantize_group(x, q);
    }
    for (q, sum) in q.chunks_exact(SUM_GROUP).zip(sums) {
        *sum = q.iter().map(|&q| i16::from(q)).sum();
    }
}

/// Writes the codes of one group and returns its scale.
fn quantize_group(x: &[f32], q: &mut [i8]) -> f32 {
    // As integers, magnitudes order like the numbers and NaN comes out above infinity.
    let amax_bits = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let amax = f32::from_bits(amax_bits);
    if !amax.is_finite() {
        q.fill(0);
        return f32::NAN;
    }
    let id = 127.0 / amax;
    if !id.is_finite() {
        q.fill(0);
        return 0.0;
    }
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * id).round() as i8;
    }
    amax / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_halves_away_from_zero() {
        let mut x = [0.0f32; 32];
        x[..6].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -2.5, 2.4]);
        let a = Activations::quantize(&x, 32);
        let row = a.row(0);
        assert_eq!(&row.q[..7], &[127, 1, -1, 2, -3, 2, 0]);
        assert_eq!(row.d, &[1.0]);
        assert_eq!(row.sums, &[127 + 1 - 1 + 2 - 3 + 2, 0]);
    }

    #[test]
    fn zero_and_vanishing_groups_have_scale_zero() {
        for tiny in [0.0f32, f32::from_bits(1), 1e-38, 3e-37] {
            let a = Activations::quantize(&[tiny; 32], 32);
            assert_eq!(a.row(0).d, &[0.0], "{tiny:e}");
            assert!(a.row(0).q.iter().all(|&q| q == 0), "{tiny:e}");
        }
        let a = Activations::quantize(&[4e-37; 32], 32);
        assert!(a.row(0).d[0] > 0.0 && a.row(0).q[0] == 127);
    }

    #[test]
    fn non_finite_groups_have_scale_nan_and_stay_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0f32; 96];
            x[40] = bad;
            let a = Activations::quantize(&x, 96);
            let row = a.row(0);
            assert!(row.d[0] > 0.0 && row.d[1].is_nan() && row.d[2] > 0.0);
            assert_eq!((row.q[31], row.q[32], row.q[63], row.q[64]), (127, 0, 0, 127));
        }
    }

    #[test]
    fn rows_are_cut_at_their_length() {
        let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let a = Activations::quantize(&x, 64);
        assert_eq!(a.rows(), 2);
        assert_eq!(a.row(1).len(), 64);
        assert_eq!(a.row(1).d, &[95.0 / 127.0, 1.0]);
    }
}
