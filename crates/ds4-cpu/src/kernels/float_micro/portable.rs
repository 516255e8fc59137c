//! The definition of a float product, in plain Rust. On aarch64 the compiler makes it NEON code.

use super::super::math::{add_lanes, f16_bits_to_f32};
use super::{Float, LANES, W_ROWS};

/// Activation rows that keep their accumulators in registers together.
const PASS: usize = 4;

/// See [`super::multiply`].
pub(super) fn multiply(ty: Float, w: &[&[u8]], x: &[&[f32]], out: &mut [[f32; W_ROWS]]) {
    for (x, out) in x.chunks(PASS).zip(out.chunks_mut(PASS)) {
        for (o, w) in w.iter().enumerate() {
            let x: [&[f32]; PASS] = std::array::from_fn(|r| x[r.min(x.len() - 1)]);
            let sums = match ty {
                Float::F32 => dots(w, x, f32::from_le_bytes),
                Float::F16 => dots(w, x, |b| f16_bits_to_f32(u16::from_le_bytes(b))),
                Float::BF16 => dots(w, x, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            };
            for (out, sum) in out.iter_mut().zip(sums) {
                out[o] = sum;
            }
        }
    }
}

/// One weight row times `PASS` activation rows; numbers of `B` bytes.
#[inline(always)]
fn dots<const B: usize>(w: &[u8], x: [&[f32]; PASS], number: impl Fn([u8; B]) -> f32) -> [f32; PASS] {
    let mut acc = [[0.0f32; LANES]; PASS];
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
    acc.map(add_lanes)
}
