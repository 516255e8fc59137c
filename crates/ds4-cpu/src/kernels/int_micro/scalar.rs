//! The definition of an integer product, in plain Rust.

use super::super::activation::QuantizedRow;
use super::super::tile::{Minima, ROWS, Tile};

/// See [`super::multiply`].
pub(super) fn multiply(tile: &Tile, x: &[QuantizedRow<'_>], acc: &mut [[f32; ROWS]]) {
    for (x, acc) in x.iter().zip(acc) {
        for (group, (codes, scales)) in tile.codes().iter().zip(tile.scales()).enumerate() {
            let q = &x.q[group * 32..][..32];
            let sums = &x.sums[group * 2..][..2];
            let of_group = i32::from(sums[0]) + i32::from(sums[1]);
            for o in 0..ROWS {
                // The codes carry the bias: sum (w + bias) x - bias sum x = sum w x, exactly.
                let mut sum = -tile.bias * of_group;
                for (i, &q) in q.iter().enumerate() {
                    sum += i32::from(codes[(i / 4 * ROWS + o) * 4 + i % 4]) * i32::from(q);
                }
                acc[o] = (sum as f32).mul_add(scales[o] * x.d[group], acc[o]);
            }
            if let Some(Minima { factors, scales }) = tile.minima() {
                for o in 0..ROWS {
                    let [first, second] = factors[group][o];
                    let sum = i32::from(first) * i32::from(sums[0]) + i32::from(second) * i32::from(sums[1]);
                    acc[o] = (sum as f32).mul_add(-(scales[group][o] * x.d[group]), acc[o]);
                }
            }
        }
    }
}
