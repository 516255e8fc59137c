// Hyper-connections, second half: how much each stream gives and takes, how the streams mix (Sinkhorn), and the sublayer's
// normalized input, in float32 and, with INTEGERS, as int8. The head has no merge. grid: (rows).

struct Params {
    /// Offsets in `vectors`: bias, scales, norm weight.
    base: u32,
    scale: u32,
    norm: u32,
    indirect: u32,
    eps: f32,
    hc_eps: f32,
    iterations: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> streams: array<f32>;
@group(0) @binding(3) var<storage, read> wanted: array<u32>;
@group(0) @binding(4) var<storage, read> partial: array<f32>;
@group(0) @binding(5) var<storage, read_write> input: array<f32>;
@group(0) @binding(6) var<storage, read_write> codes: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;
// Post weights, [rows][HC], then mixing weights, [rows][HC][HC] from `comb_at`.
@group(0) @binding(8) var<storage, read_write> merge: array<f32>;

const COLUMNS: u32 = HC * N_EMBD;
const SLICES: u32 = (COLUMNS + SLICE - 1u) / SLICE;
const SUMS: u32 = OUTPUTS + 1u;

var<workgroup> mix: array<f32, SUMS>;

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

/// The mixing weights from the last HC * HC outputs, nearly doubly stochastic: softmax of the rows, then alternating normalizations
/// that end on columns.
fn sinkhorn(factor: f32) -> array<f32, HC * HC> {
    var c: array<f32, HC * HC>;
    for (var j = 0u; j < HC; j += 1u) {
        var most = -3.0e38;
        for (var k = 0u; k < HC; k += 1u) {
            let i = 2u * HC + j * HC + k;
            let v = fma(mix[i] * factor, vectors[p.scale + 2u], vectors[p.base + i]);
            c[j * HC + k] = v;
            most = max(most, v);
        }
        var sum = 0.0;
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] = exp(c[j * HC + k] - most);
            sum += c[j * HC + k];
        }
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] = c[j * HC + k] / sum + p.hc_eps;
        }
    }
    for (var i = 0u; i < p.iterations; i += 1u) {
        for (var j = 0u; j < HC && i > 0u; j += 1u) {
            var sum = p.hc_eps;
            for (var k = 0u; k < HC; k += 1u) {
                sum += c[j * HC + k];
            }
            for (var k = 0u; k < HC; k += 1u) {
                c[j * HC + k] /= sum;
            }
        }
        for (var k = 0u; k < HC; k += 1u) {
            var sum = p.hc_eps;
            for (var j = 0u; j < HC; j += 1u) {
                sum += c[j * HC + k];
            }
            for (var j = 0u; j < HC; j += 1u) {
                c[j * HC + k] /= sum;
            }
        }
    }
    return c;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var row = block.x;
    if (p.indirect != 0u) {
        row = wanted[row];
    }
    if (t < SUMS) {
        var sum = 0.0;
        for (var s = 0u; s < SLICES; s += 1u) {
            sum += partial[(block.x * SLICES + s) * SUMS + t];
        }
        mix[t] = sum;
    }
    workgroupBarrier();
    let factor = 1.0 / sqrt(mix[OUTPUTS] / f32(COLUMNS) + p.eps);
    if (!HEAD) {
        // Invocations of the last span do this beside the others' work on the input.
        if (t == WG - 1u) {
            var c = sinkhorn(factor);
            for (var i = 0u; i < HC * HC; i += 1u) {
                merge[block.x * (HC + HC * HC) + HC + i] = c[i];
            }
        }
        if (t < HC) {
            let v = fma(mix[HC + t] * factor, vectors[p.scale + 1u], vectors[p.base + HC + t]);
            merge[block.x * (HC + HC * HC) + t] = 2.0 * sigmoid(v);
        }
    }
    var give: array<f32, HC>;
    for (var i = 0u; i < HC; i += 1u) {
        give[i] = sigmoid(fma(mix[i] * factor, vectors[p.scale], vectors[p.base + i])) + p.hc_eps;
    }
    let at = block.x * N_EMBD;
    var squares = 0.0;
    for (var i = t; i < N_EMBD; i += WG) {
        var v = 0.0;
        for (var k = 0u; k < HC; k += 1u) {
            v = fma(give[k], streams[row * COLUMNS + k * N_EMBD + i], v);
        }
        input[at + i] = v;
        squares = fma(v, v, squares);
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(N_EMBD) + p.eps);
    for (var i = t; i < N_EMBD; i += WG) {
        input[at + i] = input[at + i] * scale * vectors[p.norm + i];
    }
    if (INTEGERS) {
        storageBarrier();
        for (var g = t; g < N_EMBD / 32u; g += WG) {
            var v: array<vec4<f32>, 8>;
            for (var i = 0u; i < 8u; i += 1u) {
                let j = at + g * 32u + i * 4u;
                v[i] = vec4<f32>(input[j], input[j + 1u], input[j + 2u], input[j + 3u]);
            }
            let q = quantize_group(v);
            let to = block.x * (N_EMBD / 32u) + g;
            codes[2u * to] = q.low;
            codes[2u * to + 1u] = q.high;
            scales[to] = q.scale;
        }
    }
}
