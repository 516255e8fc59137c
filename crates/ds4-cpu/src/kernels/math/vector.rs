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

per_isa! {
    /// Hyper-connection after a sublayer: every stream becomes its share of the output plus a mixture of all streams,
    /// `S'[k] = post[k] y + sum_j comb[j][k] S[j]`, the streams `j` taken in order by fused multiply-add.
    ///
    /// - `y`: `[n]`
    /// - `post`: `[hc]`, at most 16
    /// - `comb`: `[hc, hc]`
    /// - `streams`: `[hc, n]`
    ///
    /// # Panics
    /// Shapes do not fit.
    pub fn merge_streams(y: &[f32], post: &[f32], comb: &[f32], streams: &mut [f32]) = merge_streams_body
}

#[inline(always)]
fn merge_streams_body(y: &[f32], post: &[f32], comb: &[f32], streams: &mut [f32]) {
    let (n, hc) = (y.len(), post.len());
    assert!(hc <= MAX_STREAMS && comb.len() == hc * hc && streams.len() == hc * n, "{hc} streams of {n} values");
    match hc {
        // The published number, so that all loops over streams are unrolled.
        4 => merge_pieces(y, post, comb, streams, 4),
        _ => merge_pieces(y, post, comb, streams, hc),
    }
}

/// Most streams that are mixed.
const MAX_STREAMS: usize = 16;
/// Values of a stream that are held at a time.
const PIECE: usize = 16;

#[inline(always)]
fn merge_pieces(y: &[f32], post: &[f32], comb: &[f32], streams: &mut [f32], hc: usize) {
    let n = y.len();
    for (i, y) in y.chunks(PIECE).enumerate() {
        let at = i * PIECE;
        let mut old = [[0.0f32; PIECE]; MAX_STREAMS];
        let mut own = [0.0f32; PIECE];
        own[..y.len()].copy_from_slice(y);
        for j in 0..hc {
            old[j][..y.len()].copy_from_slice(&streams[j * n + at..][..y.len()]);
        }
        for k in 0..hc {
            let mut merged = own.map(|y| y * post[k]);
            for j in 0..hc {
                for (merged, old) in merged.iter_mut().zip(old[j]) {
                    *merged = comb[j * hc + k].mul_add(old, *merged);
                }
            }
            streams[k * n + at..][..y.len()].copy_from_slice(&merged[..y.len()]);
        }
    }
}

/// Heads that share one pass over the value rows.
const HEADS: usize = 8;
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
