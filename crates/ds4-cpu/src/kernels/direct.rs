//! Q8_0 weights times a few rows with AMX: the weights go from where they are stored straight to a tile register. A block's 32 codes
//! lie side by side, and the same blocks of sixteen rows are sixteen rows of a register, so that nothing is decoded, and the step of
//! several sequences reads its weights as quickly as that of one.
//!
//! The sums of a group come as `[weight row][activation row]`, and so do the accumulators: a register has `16 / N` weight rows with
//! `N` activation rows each. The arithmetic is that of the tiles of [`matmul_i8`](super::matmul_i8()), bit for bit.
//!
//! See [`int_micro::amx`](super::int_micro) for what is known of these instructions: sums are stored three products after they
//! were begun, and loaded two later still, since rows shorter than a register cannot be passed on before they are in the cache.

// Arrays of registers are handled by index: iterator adapters are compiled without the vector extensions.
#![allow(clippy::needless_range_loop)]

use super::activation::{GROUP, QuantizedRows};
use super::aligned::AlignedVec;
use super::int_micro::amx::Config;
use super::isa::Isa;
use super::matrix::{Matrix, Rows};
use super::out::OutCols;
use super::prefetch::prefetch;
use ds4_gguf::TensorType;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

const BLOCK_BYTES: usize = 34;
/// Where the codes begin.
const CODES: usize = 2;
/// Weight rows of a register.
const ROWS: usize = 16;
/// Most activation rows.
const MOST: usize = 16;
/// One row is as quick through the kernel of one row.
const LEAST: usize = 2;
/// Words of four inputs in a group.
const QUADS: usize = GROUP / 4;
/// Tile registers for sums, which take turns.
const TURNS: usize = 4;
/// Products between that of a group and the store of its sums.
const LAG: usize = 3;
/// Products between the store of sums and their use.
const REST: usize = 2;
/// Places for stored sums.
const PLACES: usize = 4;

/// Memory kept from call to call.
#[derive(Default)]
struct Scratch {
    x: Activations,
    /// Copies of the last weight rows, where they are not sixteen.
    last: AlignedVec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Activation rows as the products read them; places beyond the last row have zeros.
#[derive(Default)]
struct Activations {
    /// `[groups][QUADS][places][4]`.
    codes: AlignedVec<i8>,
    /// `[groups][16]`: the scales of all places, as often as they fit.
    scales: AlignedVec<f32>,
}

impl Activations {
    fn fill(&mut self, x: &QuantizedRows, (rows, n): (Rows<'_>, usize), places: usize) {
        self.codes.resize(x.cols() * places);
        self.scales.resize(x.cols() / GROUP * ROWS);
        let (codes, scales) = (self.codes.as_mut_slice(), self.scales.as_mut_slice());
        if n < places {
            codes.fill(0);
            scales.fill(0.0);
        }
        let (codes, scales) = (codes.as_chunks_mut::<4>().0, scales.as_chunks_mut::<ROWS>().0);
        for i in 0..n {
            let x = x.row(rows.get(i).0);
            for (quad, q) in x.q.as_chunks::<4>().0.iter().enumerate() {
                codes[quad * places + i] = *q;
            }
            for (scales, d) in scales.iter_mut().zip(x.d) {
                scales[i..].iter_mut().step_by(places).for_each(|scale| *scale = *d);
            }
        }
    }
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
    let offsets_fit = i32::try_from(w.row_bytes() * ROWS).is_ok();
    if !isa.has_tiles() || w.ty() != TensorType::Q8_0 || !(LEAST..=MOST).contains(&n) || !offsets_fit {
        return false;
    }
    assert!(x.cols() == w.cols() && out_rows.end <= w.rows() && out_rows.len() == y.cols());
    let places = n.next_power_of_two();
    SCRATCH.with_borrow_mut(|Scratch { x: arranged, last }| {
        arranged.fill(x, (rows, n), places);
        // Sixteen weight rows of a group, left; quads of the activation rows, right.
        let x_bytes = 4 * places as u16;
        let config = Config::new((ROWS as u8, x_bytes), (ROWS as u8, GROUP as u16), (QUADS as u8, x_bytes));
        // SAFETY: an `Isa` with tiles exists only where the processor and the system offer them; the configuration is one of
        // palette 1. The compiler uses none of these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
        let mut acc = [0.0; ROWS * MOST];
        for first in out_rows.clone().step_by(ROWS) {
            let end = out_rows.end.min(first + ROWS);
            let bytes = &w.bytes()[first * w.row_bytes()..end * w.row_bytes()];
            let bytes = if end - first == ROWS {
                bytes
            } else {
                last.resize(ROWS * w.row_bytes());
                last.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                last.as_slice()
            };
            // SAFETY: the instructions are there and the registers configured for `places`.
            unsafe {
                match places {
                    2 => sixteen::<2>(bytes, arranged, &mut acc),
                    4 => sixteen::<4>(bytes, arranged, &mut acc),
                    8 => sixteen::<8>(bytes, arranged, &mut acc),
                    _ => sixteen::<16>(bytes, arranged, &mut acc),
                }
            }
            for i in 0..n {
                let y = &mut y.row_mut(rows.get(i).1)[first - out_rows.start..end - out_rows.start];
                for (y, acc) in y.iter_mut().zip(acc.chunks(places)) {
                    *y = acc[i];
                }
            }
        }
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    });
    true
}

/// Sums of a group, `[weight row][place]`.
type Group = [i32; ROWS * MOST];

#[repr(C, align(64))]
struct Results([Group; PLACES]);

/// `acc[weight row][place]` = sixteen weight rows times `N` places.
///
/// # Safety
/// The processor has the instructions, and the tile registers are configured for `N` places.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn sixteen<const N: usize>(weights: &[u8], x: &Activations, acc: &mut [f32; ROWS * MOST]) {
    let (codes, scales) = (x.codes.as_slice(), x.scales.as_slice().as_chunks::<ROWS>().0);
    let groups = scales.len();
    let row_bytes = groups * BLOCK_BYTES;
    assert!(weights.len() == ROWS * row_bytes && codes.len() == groups * GROUP * N);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(row_bytes as i32));
    // Which of sixteen weight rows the lanes of the first register have; those of the next ones are `16 / N` further on.
    let rows = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(N.trailing_zeros() as i32));
    let mut total = [_mm512_setzero_ps(); N];
    let mut results = MaybeUninit::<Results>::uninit();
    let results = results.as_mut_ptr().cast::<Group>();
    // SAFETY: below, `g` is a group. It has 32 codes from `CODES` on in each of sixteen rows of weights, `row_bytes` apart, and before
    // these a scale; the four bytes from there on are the row's.
    unsafe {
        let begin = |g: usize| {
            begin(
                g % TURNS,
                weights.as_ptr().add(g * BLOCK_BYTES + CODES),
                row_bytes,
                codes.as_ptr().add(g * GROUP * N),
                4 * N,
            )
        };
        let store = |g: usize| store(g % TURNS, results.add(g % PLACES).cast(), 4 * N);
        let add = |g: usize, mut total: [__m512; N]| {
            let words = _mm512_i32gather_epi32::<1>(offsets, weights.as_ptr().add(g * BLOCK_BYTES).cast());
            let d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
            let d_x = _mm512_loadu_ps(scales[g].as_ptr());
            for i in 0..N {
                let rows = _mm512_add_epi32(rows, _mm512_set1_epi32((i * ROWS / N) as i32));
                let d = _mm512_permutexvar_ps(rows, d);
                let sum = _mm512_loadu_si512(results.add(g % PLACES).cast::<i32>().add(i * ROWS).cast());
                total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(d, d_x), total[i]);
            }
            total
        };
        let ahead = weights.as_ptr_range().end;
        for g in 0..groups + LAG + REST {
            if g < groups {
                prefetch(ahead.wrapping_add(g * ROWS * BLOCK_BYTES), ROWS * BLOCK_BYTES);
            }
            if (LAG..groups + LAG).contains(&g) {
                store(g - LAG);
            }
            if g < groups {
                begin(g);
            }
            if g >= LAG + REST {
                total = add(g - LAG - REST, total);
            }
        }
    }
    for (total, acc) in total.iter().zip(acc.as_chunks_mut::<ROWS>().0) {
        // SAFETY: sixteen floats; the store needs no alignment.
        unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), *total) };
    }
}

/// Begins the sums of a group in the registers of `turn`.
///
/// # Safety
/// The registers are configured; `weights` has sixteen rows of 32 codes, `row_bytes` apart, `x` as many quads of `x_bytes` as a group.
#[inline(always)]
unsafe fn begin(turn: usize, weights: *const u8, row_bytes: usize, x: *const i8, x_bytes: usize) {
    macro_rules! multiply {
        ($sums:literal, $w:literal, $x:literal) => {
            asm!(
                concat!("tilezero tmm", $sums),
                concat!("tileloadd tmm", $w, ", [{w} + {w_row}*1]"),
                concat!("tileloadd tmm", $x, ", [{x} + {x_row}*1]"),
                concat!("tdpbssd tmm", $sums, ", tmm", $w, ", tmm", $x),
                x = in(reg) x, w = in(reg) weights, x_row = in(reg) x_bytes, w_row = in(reg) row_bytes,
                options(nostack, readonly, preserves_flags)
            )
        };
    }
    // SAFETY: the caller's promise. The compiler uses none of the tile registers.
    unsafe {
        match turn {
            0 => multiply!(0, 4, 5),
            1 => multiply!(1, 6, 7),
            2 => multiply!(2, 4, 5),
            _ => multiply!(3, 6, 7),
        }
    }
}

/// Writes the sums of `turn`, `[16][row_bytes / 4]`.
///
/// # Safety
/// The registers are configured; `to` is memory for the sums.
#[inline(always)]
unsafe fn store(turn: usize, to: *mut i32, row_bytes: usize) {
    macro_rules! store {
        ($sums:literal) => {
            asm!(
                concat!("tilestored [{to} + {line}*1], tmm", $sums),
                to = in(reg) to, line = in(reg) row_bytes,
                options(nostack, preserves_flags)
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match turn {
            0 => store!(0),
            1 => store!(1),
            2 => store!(2),
            _ => store!(3),
        }
    }
}
