// How much of its output a sublayer gives each stream, and how the streams mix (Sinkhorn): what the streams' merge needs when the
// sublayer is done. Kernels of the sublayer that have a workgroup to spare make them, so that nothing waits for them.
//
// `merge`, [rows][MERGE_STEP]: post weights [HC], mixing weights [HC][HC], and the projection's sums that they come from, the squares
// last.

struct Hyper {
    /// Offsets in `vectors`: bias, scales.
    base: u32,
    scale: u32,
    iterations: u32,
    eps: f32,
    hc_eps: f32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

/// The mixing weights from the last HC * HC outputs, nearly doubly stochastic: softmax of the rows, then alternating normalizations
/// that end on columns. Each invocation makes them all: waiting for others would take longer.
fn sinkhorn(h: Hyper, sums: u32, factor: f32) -> array<f32, HC * HC> {
    var c: array<f32, HC * HC>;
    for (var j = 0u; j < HC; j += 1u) {
        var most = -3.0e38;
        for (var k = 0u; k < HC; k += 1u) {
            let i = 2u * HC + j * HC + k;
            let v = fma(merge[sums + i] * factor, vectors[h.scale + 2u], vectors[h.base + i]);
            c[j * HC + k] = v;
            most = max(most, v);
        }
        var sum = 0.0;
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] = exp(c[j * HC + k] - most);
            sum += c[j * HC + k];
        }
        let inverse = 1.0 / sum;
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] = c[j * HC + k] * inverse + h.hc_eps;
        }
    }
    // Normalizing multiplies rows and columns by factors; only these change, and what is kept are their inverses: the new inverse of a
    // row is sum_k c_jk s_k plus epsilon times the old one.
    var rows: array<f32, HC>;
    var columns: array<f32, HC>;
    var row_inverses: array<f32, HC>;
    var column_inverses: array<f32, HC>;
    for (var k = 0u; k < HC; k += 1u) {
        rows[k] = 1.0;
        columns[k] = 1.0;
        row_inverses[k] = 1.0;
        column_inverses[k] = 1.0;
    }
    for (var i = 0u; i < h.iterations; i += 1u) {
        if (i > 0u) {
            for (var j = 0u; j < HC; j += 1u) {
                var sum = h.hc_eps * row_inverses[j];
                for (var k = 0u; k < HC; k += 1u) {
                    sum = fma(c[j * HC + k], columns[k], sum);
                }
                row_inverses[j] = sum;
                rows[j] = 1.0 / sum;
            }
        }
        for (var k = 0u; k < HC; k += 1u) {
            var sum = h.hc_eps * column_inverses[k];
            for (var j = 0u; j < HC; j += 1u) {
                sum = fma(c[j * HC + k], rows[j], sum);
            }
            column_inverses[k] = sum;
            columns[k] = 1.0 / sum;
        }
    }
    for (var j = 0u; j < HC; j += 1u) {
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] *= rows[j] * columns[k];
        }
    }
    return c;
}

/// Makes the merging weights of a row.
fn make_merge_weights(h: Hyper, row: u32, t: u32) {
    let at = row * MERGE_STEP;
    let sums = at + HC + HC * HC;
    let factor = 1.0 / sqrt(merge[sums + 2u * HC + HC * HC] / f32(HC * N_EMBD) + h.eps);
    if (t < 32u) {
        let c = sinkhorn(h, sums, factor);
        for (var i = 0u; i < HC * HC; i += 1u) {
            if (t == i % 32u) {
                merge[at + HC + i] = c[i];
            }
        }
    }
    if (t < HC) {
        let v = fma(merge[sums + HC + t] * factor, vectors[h.scale + 1u], vectors[h.base + HC + t]);
        merge[at + t] = 2.0 * sigmoid(v);
    }
}
