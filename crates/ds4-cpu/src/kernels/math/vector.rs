//! Element-wise functions of vectors.

use super::super::isa::per_isa;

per_isa! {
    /// `y += a x`, fused.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) = axpy_body
}

#[inline(always)]
fn axpy_body(a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "axpy of vectors of different length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

per_isa! {
    /// `x *= a`.
    pub fn scale(a: f32, x: &mut [f32]) = scale_body
}

#[inline(always)]
fn scale_body(a: f32, x: &mut [f32]) {
    for x in x {
        *x *= a;
    }
}

per_isa! {
    /// `y += x`.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn add(x: &[f32], y: &mut [f32]) = add_body
}

#[inline(always)]
fn add_body(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "sum of vectors of different length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

per_isa! {
    /// `y *= x`.
    ///
    /// # Panics
    /// Lengths differ.
    pub fn mul(x: &[f32], y: &mut [f32]) = mul_body
}

#[inline(always)]
fn mul_body(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "product of vectors of different length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y *= x;
    }
}

/// Heads that share one pass over the value rows.
const HEADS: usize = 4;
/// Channels kept in registers meanwhile.
const CHANNELS: usize = 32;

per_isa! {
    /// Attention's second product: `out[h][c] += sum_k p[h][k] v[k][c]`, the rows `k` taken in order by fused
    /// multiply-add, so that a sum may be continued by a second call.
    ///
    /// - `p`: `[heads, ld_p]`, the first `v.len() / dim` of each row are used
    /// - `v`: `[n, dim]`
    /// - `out`: `[heads, dim]`
    ///
    /// # Panics
    /// Shapes do not fit.
    pub fn weighted_sum(p: &[f32], ld_p: usize, v: &[f32], dim: usize, out: &mut [f32]) = weighted_sum_body
}

#[inline(always)]
fn weighted_sum_body(p: &[f32], ld_p: usize, v: &[f32], dim: usize, out: &mut [f32]) {
    assert!(dim > 0 && v.len().is_multiple_of(dim) && out.len().is_multiple_of(dim), "rows of {dim} values");
    let (n, heads) = (v.len() / dim, out.len() / dim);
    if n == 0 || heads == 0 {
        return;
    }
    assert!(n <= ld_p && p.len() >= (heads - 1) * ld_p + n, "too few weights for {heads} heads and {n} rows");
    for head in (0..heads).step_by(HEADS) {
        let p: [&[f32]; HEADS] = std::array::from_fn(|i| &p[(head + i).min(heads - 1) * ld_p..][..n]);
        let used = (heads - head).min(HEADS);
        let mut channel = 0;
        while channel + CHANNELS <= dim {
            let mut acc = [[0.0f32; CHANNELS]; HEADS];
            for (i, acc) in acc.iter_mut().enumerate().take(used) {
                acc.copy_from_slice(&out[(head + i) * dim + channel..][..CHANNELS]);
            }
            for (k, row) in v.chunks_exact(dim).enumerate() {
                let row: &[f32] = &row[channel..channel + CHANNELS];
                for (acc, p) in acc.iter_mut().zip(&p) {
                    for (acc, &v) in acc.iter_mut().zip(row) {
                        *acc = p[k].mul_add(v, *acc);
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate().take(used) {
                out[(head + i) * dim + channel..][..CHANNELS].copy_from_slice(acc);
            }
            channel += CHANNELS;
        }
        for i in 0..used {
            for c in channel..dim {
                let out = &mut out[(head + i) * dim + c];
                for (row, &p) in v.chunks_exact(dim).zip(p[i]) {
                    *out = p.mul_add(row[c], *out);
                }
            }
        }
    }
}
