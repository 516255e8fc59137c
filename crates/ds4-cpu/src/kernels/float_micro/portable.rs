//! The definition of a float product, in plain Rust. On aarch64 the compiler makes it NEON code.

use super::super::math::f16_bits_to_f32;
use super::{Float, LANES, Lanes, W_ROWS};

/// Activation rows that keep their accumulators in registers together.
const PASS: usize = 4;

/// See [`super::accumulate`].
pub(super) fn accumulate(ty: Float, w: &[&[u8]], x: &[&[f32]], acc: &mut [[Lanes; W_ROWS]]) {
    for (x, acc) in x.chunks(PASS).zip(acc.chunks_mut(PASS)) {
        for (o, w) in w.iter().enumerate() {
            // Rows beyond the last repeat it; their sums are dropped.
            let rows: [&[f32]; PASS] = std::array::from_fn(|r| x[r.min(x.len() - 1)]);
            let before = std::array::from_fn(|r| acc[r.min(x.len() - 1)][o]);
            let sums = match ty {
                Float::F32 => add(w, rows, before, f32::from_le_bytes),
                Float::F16 => add(w, rows, before, |b| f16_bits_to_f32(u16::from_le_bytes(b))),
                Float::BF16 => add(w, rows, before, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            };
            for (acc, sum) in acc.iter_mut().zip(sums) {
                acc[o] = sum;
            }
        }
    }
}

/// One weight row times `PASS` activation rows; numbers of `B` bytes.
#[inline(always)]
fn add<const B: usize>(
    w: &[u8],
    x: [&[f32]; PASS],
    mut acc: [Lanes; PASS],
    number: impl Fn([u8; B]) -> f32,
) -> [Lanes; PASS] {
    let (chunks, rest) = w.as_chunks::<B>().0.as_chunks::<LANES>();
    for (i, w) in chunks.iter().enumerate() {
        let w: [f32; LANES] = std::array::from_fn(|l| number(w[l]));
        for (acc, x) in acc.iter_mut().zip(x) {
            let x = &x[i * LANES..][..LANES];
            for l in 0..LANES {
                acc[l] = w[l].mul_add(x[l], acc[l]);
            }
        }
    }
    // The lanes beyond the end would add zero times zero.
    for (l, &w) in rest.iter().enumerate() {
        for (acc, x) in acc.iter_mut().zip(x) {
            acc[l] = number(w).mul_add(x[chunks.len() * LANES + l], acc[l]);
        }
    }
    acc
}
