//! Activations quantized to int8 for integer products.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::aligned::AlignedVec;
#[cfg(target_arch = "x86_64")]
use super::isa::Kind;
use super::isa::{Isa, per_isa};
use crate::pool::Pool;

/// Elements that share one scale.
pub const GROUP: usize = 32;

/// Rows of activations as int8 in groups of 32 with one f32 scale each, and the sums of every 16.
///
/// For a group with largest magnitude `a`: `d = a / 127`, `q = round(x * (127 / a))`, halves away from
/// zero. A group too small for `127 / a` to be finite (below 3.8e-37, or all zero) has `d = 0` and `q = 0`; one
/// with a NaN or an infinity has `d = NaN` and `q = 0`, so that every result it touches shows the defect.
/// The buffers are reused from one operation to the next.
pub struct QuantizedRows {
    rows: usize,
    cols: usize,
    /// Elements from one row to the next in `q`; see `stride`.
    stride: usize,
    q: AlignedVec<i8>,
    d: AlignedVec<f32>,
    sums: AlignedVec<i16>,
}

/// One row: `q` [cols], `d` [cols / 32], `sums` [cols / 16].
#[derive(Clone, Copy, Default)]
pub(crate) struct QuantizedRow<'a> {
    pub q: &'a [i8],
    pub d: &'a [f32],
    pub sums: &'a [i16],
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl<'a> QuantizedRow<'a> {
    /// `groups` groups of 32 from group `first`.
    #[inline]
    pub fn slice(self, first: usize, groups: usize) -> QuantizedRow<'a> {
        QuantizedRow {
            q: &self.q[first * GROUP..][..groups * GROUP],
            d: &self.d[first..][..groups],
            sums: &self.sums[first * 2..][..groups * 2],
        }
    }
}

impl Default for QuantizedRows {
    fn default() -> QuantizedRows {
        QuantizedRows::new()
    }
}

impl QuantizedRows {
    /// An empty buffer.
    pub fn new() -> QuantizedRows {
        QuantizedRows {
            rows: 0,
            cols: 0,
            stride: 0,
            q: AlignedVec::new(),
            d: AlignedVec::new(),
            sums: AlignedVec::new(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Replaces the contents by the rows of `x` (`[n, cols]` f32, row-major).
    ///
    /// # Panics
    /// `cols` is 0 or no multiple of 32, or does not divide `x.len()`.
    pub fn quantize(&mut self, isa: Isa, x: &[f32], cols: usize) {
        self.shape(x, cols);
        let (stride, groups) = (self.stride, cols / GROUP);
        let q = self.q.as_mut_slice().chunks_exact_mut(stride);
        let d = self.d.as_mut_slice().chunks_exact_mut(groups);
        let sums = self.sums.as_mut_slice().chunks_exact_mut(2 * groups);
        for (((x, q), d), sums) in x.chunks_exact(cols).zip(q).zip(d).zip(sums) {
            quantize_row(isa, x, q, d, sums);
        }
    }

    /// Like [`quantize`](QuantizedRows::quantize), with the rows divided among the pool's threads.
    ///
    /// # Panics
    /// As `quantize`; also from inside a pool task.
    pub fn quantize_in(&mut self, pool: &Pool, isa: Isa, x: &[f32], cols: usize) {
        // Below this many values a thread is done sooner than another one has noticed the work.
        const VALUES_PER_TASK: usize = 4 * 1024;
        let rows_per_task = (VALUES_PER_TASK / cols.max(1)).max(1);
        if pool.threads() == 1 || x.len() <= VALUES_PER_TASK {
            return self.quantize(isa, x, cols);
        }
        self.shape(x, cols);
        let (stride, groups) = (self.stride, cols / GROUP);
        // Each task takes one of these lists' entries out of its cell.
        let parts: Vec<_> = x
            .chunks(rows_per_task * cols)
            .zip(self.q.as_mut_slice().chunks_mut(rows_per_task * stride))
            .zip(self.d.as_mut_slice().chunks_mut(rows_per_task * groups))
            .zip(self.sums.as_mut_slice().chunks_mut(rows_per_task * 2 * groups))
            .map(|part| std::sync::Mutex::new(Some(part)))
            .collect();
        pool.run(parts.len(), |task| {
            let part = parts[task].lock().ok().and_then(|mut part| part.take());
            let Some((((x, q), d), sums)) = part else { return };
            let rows = x.chunks_exact(cols).zip(q.chunks_exact_mut(stride));
            let scales = d.chunks_exact_mut(groups).zip(sums.chunks_exact_mut(2 * groups));
            for ((x, q), (d, sums)) in rows.zip(scales) {
                quantize_row(isa, x, q, d, sums);
            }
        });
    }

    /// Makes room for the rows of `x`.
    fn shape(&mut self, x: &[f32], cols: usize) {
        assert!(
            cols > 0 && cols.is_multiple_of(GROUP) && x.len().is_multiple_of(cols),
            "{} activations in rows of {cols}, which must be a multiple of {GROUP}",
            x.len()
        );
        self.rows = x.len() / cols;
        self.cols = cols;
        // Rows a multiple of 4096 bytes apart would all compete for the same few lines of the L1 cache.
        self.stride = cols.next_multiple_of(64) + 64;
        self.q.resize(self.rows * self.stride);
        self.d.resize(self.rows * (cols / GROUP));
        self.sums.resize(self.rows * (cols / GROUP) * 2);
    }

    /// Row `row`.
    ///
    /// # Panics
    /// There is no such row.
    #[inline]
    pub(crate) fn row(&self, row: usize) -> QuantizedRow<'_> {
        assert!(row < self.rows, "activation row {row} of {}", self.rows);
        let groups = self.cols / GROUP;
        QuantizedRow {
            q: &self.q.as_slice()[row * self.stride..][..self.cols],
            d: &self.d.as_slice()[row * groups..][..groups],
            sums: &self.sums.as_slice()[row * 2 * groups..][..2 * groups],
        }
    }

    /// The values of row `row`: int8 codes `[cols]`, scales `[cols / 32]`, sums of codes `[cols / 16]`.
    ///
    /// # Panics
    /// There is no such row.
    pub fn parts(&self, row: usize) -> (&[i8], &[f32], &[i16]) {
        let row = self.row(row);
        (row.q, row.d, row.sums)
    }
}

/// Quantizes one row. `x`: `[cols]`; `q`: at least `[cols]`; `d`: `[cols / 32]`; `sums`: `[cols / 16]`.
fn quantize_row(isa: Isa, x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    #[cfg(target_arch = "x86_64")]
    if isa.kind() == Kind::Avx512 {
        // SAFETY: an `Isa` exists only where the processor offers its instructions.
        return unsafe { avx512::quantize_row(x, q, d, sums) };
    }
    quantize_row_plain(isa, x, q, d, sums);
}

per_isa! {
    /// The same in plain code.
    fn quantize_row_plain(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) = quantize_row_body
}

/// The largest number below one half. Added to a magnitude it carries everything from one half on over the next integer, and nothing
/// else: cutting off then rounds halves away from zero.
const BELOW_HALF: f32 = 0.499_999_97;

/// The scale of a group with this largest magnitude, and what its numbers are multiplied with. The second is 0 where the group has
/// no usable codes: see [`QuantizedRows`].
#[inline(always)]
fn scales(largest: f32) -> (f32, f32) {
    let inverse = 127.0 / largest;
    let usable = largest.is_finite() && inverse.is_finite();
    let scale = match (usable, largest.is_finite()) {
        (true, _) => largest / 127.0,
        (false, true) => 0.0,
        (false, false) => f32::NAN,
    };
    (scale, if usable { inverse } else { 0.0 })
}

#[inline(always)]
fn quantize_row_body(x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
    for ((x, q), (d, sums)) in groups.zip(d.iter_mut().zip(sums.as_chunks_mut::<2>().0)) {
        // As integers, magnitudes order like the numbers and NaN comes out above infinity.
        let mut largest = [0u32; 16];
        for i in 0..16 {
            largest[i] = x[i].abs().to_bits().max(x[i + 16].abs().to_bits());
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                largest[i] = largest[i].max(largest[i + half]);
            }
        }
        let (scale, inverse) = scales(f32::from_bits(largest[0]));
        *d = scale;
        for i in 0..GROUP {
            // The largest product is 127 and a rounding error; NaN (infinity times 0) becomes 0.
            let x = x[i] * inverse;
            q[i] = (x + BELOW_HALF.copysign(x)) as i32 as i8;
        }
        for (half, sum) in q.as_chunks::<16>().0.iter().zip(sums) {
            *sum = half.iter().map(|&q| i16::from(q)).sum();
        }
    }
}
