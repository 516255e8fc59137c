//! Products with one activation row (with AVX2 also two), straight from the weights' blocks: decoding a token reads every weight
//! once, so this path is made to run at the speed of memory.
//!
//! Two passes over sixteen weight rows. The first takes one row after the other, in the order in which they lie in
//! memory (a stream the processor fetches ahead of need), and leaves the exact integer sum of every group, with the
//! scales as they are stored, in a [`Partial`]. The second turns the sums so that sixteen rows lie side by side and
//! adds the groups up in order: sixteen chains of fused multiply-adds at once. The arithmetic is that of the tiles of
//! [`matmul_i8`](super::matmul_i8()), bit for bit.
//!
//! Written for AVX-512, a file per format, and for AVX2 and NEON, all formats in one; elsewhere the tiles do the work.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod iq2_xxs;
#[cfg(target_arch = "x86_64")]
mod mxfp4;
#[cfg(target_arch = "aarch64")]
mod neon;
mod partial;
#[cfg(target_arch = "x86_64")]
mod q2_k;
#[cfg(target_arch = "x86_64")]
mod q4_k;
#[cfg(target_arch = "x86_64")]
mod q8_0;
mod signs;

use super::activation::{GROUP, QuantizedRow, QuantizedRows};
use super::aligned::AlignedVec;
use super::isa::{Isa, Kind};
use super::matrix::{Matrix, Rows};
use super::out::OutCols;
#[cfg(target_arch = "x86_64")]
use super::prefetch::prefetch_near;
use ds4_gguf::TensorType;
use partial::{GROUPS, Partial, ROWS};
use std::cell::RefCell;
use std::ops::Range;

/// How far ahead of the bytes in use the next ones are asked for, into the L2 cache: the processor does the rest of the
/// way by itself, but stops at the end of every page. Measured on Zen 4 with Q8_0: 17 GB/s per thread, 14 without, 15
/// with half the distance, and 11 (less than without) when into the L1 cache.
const PREFETCH: usize = 8192;

/// See [`Passes::Apart`].
type Row = unsafe fn(&[u8], QuantizedRow<'_>, usize, &mut Partial);
/// See [`Passes::Apart`].
type Finish = unsafe fn(&Partial, &[f32], &mut [f32; ROWS]);

/// See [`Kernel::arrange_sums`].
type ArrangeSums = fn(&[i16], &mut [i16]);
/// See [`Passes::Together`].
type Together = unsafe fn(&[&[u8]], QuantizedRow<'_>, Ahead, &mut Partial, &mut [f32; ROWS]);

/// How a format is computed.
#[derive(Clone, Copy)]
struct Kernel {
    /// Puts the activations' codes, of the same length, into the order in which the first pass reads them.
    arrange: fn(&[i8], &mut [i8]),
    /// Makes of the sums of activations what the first pass reads in their place, if anything else.
    arrange_sums: Option<ArrangeSums>,
    passes: Passes,
}

/// The passes over sixteen weight rows.
#[derive(Clone, Copy)]
enum Passes {
    Apart {
        /// First pass: the groups of one weight row, given its bytes, its arranged activations and its place in the
        /// partial results.
        ///
        /// # Safety
        /// The processor has the instructions that [`kernel`] asks for; the bytes are those of the activations' number of
        /// groups (whole blocks, at most [`GROUPS`] groups), the row is below [`ROWS`].
        row: Row,
        /// Second pass: continues the accumulators of the sixteen rows with the groups whose activation scales are given.
        ///
        /// # Safety
        /// The processor has the instructions that [`kernel`] asks for; there are at most [`GROUPS`] groups.
        finish: Finish,
    },
    /// Both, of at most [`ROWS`] weight rows.
    ///
    /// # Safety
    /// The processor has the instructions that [`kernel`] asks for; the bytes of every row are those of the activations' number of
    /// groups (whole blocks, at most [`GROUPS`] groups).
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    Together(Together),
}

impl Kernel {
    fn apart(arrange: fn(&[i8], &mut [i8]), row: Row, finish: Finish) -> Kernel {
        Kernel { arrange, arrange_sums: None, passes: Passes::Apart { row, finish } }
    }
}

/// How far ahead [`Ahead`] begins: by as much as it falls behind in a first pass, and then some for the time that memory takes.
const AHEAD: usize = 6144;

/// Memory that will be needed soon. It is asked for at a steady pace, whatever the arithmetic is at: a pass that asks for nothing
/// would leave the memory idle, and one that asks for everything would wait.
#[derive(Clone, Copy)]
struct Ahead {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    at: *const u8,
}

impl Ahead {
    /// Asks for the next `bytes` bytes. They need not exist.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn ask(&mut self, bytes: usize) {
        prefetch_near(self.at, bytes);
        self.at = self.at.wrapping_add(bytes);
    }
}

/// What this processor has for weights of type `ty`.
fn kernel(isa: Isa, ty: TensorType) -> Option<Kernel> {
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512(ty),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2::kernel(ty),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => neon::kernel(ty),
        _ => None,
    }
}

/// The kernels with AVX-512 for weights of type `ty`.
#[cfg(target_arch = "x86_64")]
fn avx512(ty: TensorType) -> Option<Kernel> {
    match ty {
        TensorType::Q8_0 => Some(Kernel::apart(q8_0::arrange, q8_0::row, q8_0::finish)),
        TensorType::Q4_K => Some(Kernel::apart(q4_k::arrange, q4_k::row, q4_k::finish)),
        TensorType::MXFP4 => Some(Kernel::apart(mxfp4::arrange, mxfp4::row, mxfp4::finish)),
        TensorType::Q2_K => {
            let passes = Passes::Together(q2_k::sixteen);
            Some(Kernel { arrange: |q, to| to.copy_from_slice(q), arrange_sums: None, passes })
        }
        TensorType::IQ2_XXS if super::format::iq2_xxs::vbmi::is_offered() => {
            let passes = Passes::Together(iq2_xxs::sixteen);
            Some(Kernel { arrange: iq2_xxs::arrange, arrange_sums: Some(iq2_xxs::arrange_sums), passes })
        }
        // IQ2_XXS on processors without byte permutations (Skylake, Cascade Lake).
        _ => avx2::kernel(ty),
    }
}

/// Most activation rows that are done one after the other, while the weights are at hand.
const MOST: usize = 2;

/// Whether `n` rows are done sooner like this than tiles are decoded. With AVX-512 two rows of a large matrix take as long either way, and
/// of one in the cache twice as long.
fn is_quicker(isa: Isa, w: &Matrix<'_>, n: usize) -> bool {
    match (isa.kind(), w.ty()) {
        // Sixteen groups are what its first pass takes at a time.
        (Kind::Avx512, TensorType::Q8_0) => n <= 1 && w.cols() >= 16 * GROUP,
        (Kind::Avx512, _) => n <= 1,
        _ => n <= MOST,
    }
}

/// Memory kept from call to call.
struct Scratch {
    partial: Box<Partial>,
    /// The arranged codes of the activation rows.
    arranged: [AlignedVec<i8>; MOST],
    /// And what takes the place of their sums.
    sums: [AlignedVec<i16>; MOST],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        partial: Box::new(Partial::new()),
        arranged: std::array::from_fn(|_| AlignedVec::new()),
        sums: std::array::from_fn(|_| AlignedVec::new()),
    });
}

/// `y[output row][i]` = row `out_rows.start + i` of `w` times the activation row, for the `n` results of `rows`; `false`, and
/// nothing done, where there is no such kernel or there are too many rows for it.
///
/// # Panics
/// Shapes do not fit.
pub(super) fn multiply(
    isa: Isa,
    w: &Matrix<'_>,
    out_rows: Range<usize>,
    x: &QuantizedRows,
    (rows, n): (Rows<'_>, usize),
    y: &mut OutCols<'_>,
) -> bool {
    let Some(kernel) = kernel(isa, w.ty()).filter(|_| is_quicker(isa, w, n)) else { return false };
    assert!(x.cols() == w.cols() && out_rows.end <= w.rows() && out_rows.len() == y.cols());
    SCRATCH.with_borrow_mut(|Scratch { partial, arranged, sums }| {
        let mut operands = [QuantizedRow::default(); MOST];
        let places = operands.iter_mut().zip(arranged.iter_mut().zip(sums));
        for (i, (operand, (arranged, sums))) in places.enumerate().take(n) {
            let x = x.row(rows.get(i).0);
            arranged.resize(w.cols());
            (kernel.arrange)(x.q, arranged.as_mut_slice());
            *operand = QuantizedRow { q: arranged.as_slice(), ..x };
            if let Some(arrange) = kernel.arrange_sums {
                sums.resize(x.sums.len());
                arrange(x.sums, sums.as_mut_slice());
                operand.sums = sums.as_slice();
            }
        }
        for first in (0..out_rows.len()).step_by(ROWS) {
            let end = out_rows.len().min(first + ROWS);
            let mut acc = [[0.0; ROWS]; MOST];
            sixteen(kernel, w, out_rows.start + first..out_rows.start + end, &operands[..n], partial, &mut acc);
            for (i, acc) in acc.iter().enumerate().take(n) {
                y.row_mut(rows.get(i).1)[first..end].copy_from_slice(&acc[..end - first]);
            }
        }
    });
    true
}

/// Up to sixteen weight rows times activation rows (with arranged codes), of which there are no more than accumulators.
fn sixteen(
    kernel: Kernel,
    w: &Matrix<'_>,
    rows: Range<usize>,
    x: &[QuantizedRow<'_>],
    partial: &mut Partial,
    acc: &mut [[f32; ROWS]],
) {
    assert!(rows.len() <= ROWS);
    let bytes_to = |group: usize| group * GROUP / w.ty().block_len() * w.ty().block_bytes();
    let all = w.cols() / GROUP;
    for first in (0..all).step_by(GROUPS) {
        let groups = (all - first).min(GROUPS);
        let bytes = bytes_to(first)..bytes_to(first + groups);
        for (x, acc) in x.iter().zip(&mut *acc) {
            let x = x.slice(first, groups);
            match kernel.passes {
                Passes::Apart { row: pass, finish } => {
                    for (i, row) in rows.clone().enumerate() {
                        // SAFETY: `kernel` found the instructions; the bytes are those of `groups` groups, which are whole blocks
                        // since `GROUPS` is, and at most `GROUPS`; `i` is below `ROWS`.
                        unsafe { pass(&w.row(row)[bytes.clone()], x, i, partial) };
                    }
                    // SAFETY: as above. The places of rows beyond the last hold old numbers, whose results nobody reads.
                    unsafe { finish(partial, x.d, acc) };
                }
                Passes::Together(pass) => {
                    let mut weights = [&[][..]; ROWS];
                    for (weights, row) in weights.iter_mut().zip(rows.clone()) {
                        *weights = &w.row(row)[bytes.clone()];
                    }
                    let ahead = Ahead { at: weights[0].as_ptr().wrapping_add(AHEAD) };
                    // SAFETY: as above.
                    unsafe { pass(&weights[..rows.len()], x, ahead, partial, acc) };
                }
            }
        }
    }
}

/// Checks what the callers of a first pass promise and gives the number of groups, of which a block has `of_block`.
fn check(weights: &[u8], x: QuantizedRow<'_>, row: usize, block_bytes: usize, of_block: usize) -> usize {
    let groups = x.d.len();
    assert!(groups <= GROUPS && groups.is_multiple_of(of_block) && row < ROWS);
    assert!(weights.len() == groups / of_block * block_bytes);
    assert!(x.q.len() == groups * GROUP && x.sums.len() == groups * 2);
    groups
}
