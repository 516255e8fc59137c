// Hyper-connections, second half: how much each stream gives and takes, how the streams mix (Sinkhorn), and the sublayer's
// normalized input, in float32 and, with INTEGERS, as int8. The head has no merge. grid: (1, rows), and unless HEAD (2, rows): the
// second workgroup of a row makes the merging weights.

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
@group(0) @binding(2) var<storage, read> streams: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> wanted: array<u32>;
@group(0) @binding(4) var<storage, read> partial: array<f32>;
@group(0) @binding(5) var<storage, read_write> input: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> codes: array<u32>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;
// Post weights, [rows][HC], then mixing weights, [rows][HC][HC].
@group(0) @binding(8) var<storage, read_write> merge: array<f32>;

const WIDTH: u32 = N_EMBD / 4u;
const SLICES: u32 = (N_EMBD + SLICE - 1u) / SLICE;
const SUMS: u32 = OUTPUTS + 1u;
/// Invocations that add up one sum's slices.
const TEAM: u32 = 8u;
const EACH: u32 = (WIDTH + WG - 1u) / WG;

var<workgroup> teams: array<f32, SUMS * TEAM>;
var<workgroup> mix: array<f32, SUMS>;

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

/// The mixing weights from the last HC * HC outputs, nearly doubly stochastic: softmax of the rows, then alternating normalizations
/// that end on columns. Each invocation makes them all: waiting for others would take longer.
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
        let inverse = 1.0 / sum;
        for (var k = 0u; k < HC; k += 1u) {
            c[j * HC + k] = c[j * HC + k] * inverse + p.hc_eps;
        }
    }
    for (var i = 0u; i < p.iterations; i += 1u) {
        if (i > 0u) {
            for (var j = 0u; j < HC; j += 1u) {
                var sum = p.hc_eps;
                for (var k = 0u; k < HC; k += 1u) {
                    sum += c[j * HC + k];
                }
                let inverse = 1.0 / sum;
                for (var k = 0u; k < HC; k += 1u) {
                    c[j * HC + k] *= inverse;
                }
            }
        }
        for (var k = 0u; k < HC; k += 1u) {
            var sum = p.hc_eps;
            for (var j = 0u; j < HC; j += 1u) {
                sum += c[j * HC + k];
            }
            let inverse = 1.0 / sum;
            for (var j = 0u; j < HC; j += 1u) {
                c[j * HC + k] *= inverse;
            }
        }
    }
    return c;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var row = block.y;
    if (p.indirect != 0u) {
        row = wanted[row];
    }
    // What the streams' part of the work needs is loaded before it is known how much each stream gives.
    var streams_of: array<vec4<f32>, EACH * HC>;
    var weights: array<vec4<f32>, EACH>;
    var bias: array<f32, HC>;
    let give_scale = vectors[p.scale];
    if (HEAD || block.x == 0u) {
        for (var i = 0u; i < HC; i += 1u) {
            bias[i] = vectors[p.base + i];
        }
        for (var e = 0u; e < EACH; e += 1u) {
            let i = min(e * WG + t, WIDTH - 1u);
            let norm = p.norm + 4u * i;
            weights[e] = vec4<f32>(vectors[norm], vectors[norm + 1u], vectors[norm + 2u], vectors[norm + 3u]);
            for (var k = 0u; k < HC; k += 1u) {
                streams_of[e * HC + k] = streams[(row * HC + k) * WIDTH + i];
            }
        }
    }
    for (var i = t; i < SUMS * TEAM; i += WG) {
        let at = block.y * SLICES * SUMS + i % SUMS;
        var sum = 0.0;
        for (var s = i / SUMS; s < SLICES; s += 4u * TEAM) {
            var four: array<f32, 4>;
            for (var j = 0u; j < 4u; j += 1u) {
                let slice = s + j * TEAM;
                four[j] = select(0.0, partial[at + min(slice, SLICES - 1u) * SUMS], slice < SLICES);
            }
            sum += (four[0] + four[1]) + (four[2] + four[3]);
        }
        teams[i] = sum;
    }
    workgroupBarrier();
    if (t < SUMS) {
        let low = (teams[t] + teams[t + SUMS]) + (teams[t + 2u * SUMS] + teams[t + 3u * SUMS]);
        let high = (teams[t + 4u * SUMS] + teams[t + 5u * SUMS]) + (teams[t + 6u * SUMS] + teams[t + 7u * SUMS]);
        mix[t] = low + high;
    }
    workgroupBarrier();
    let factor = 1.0 / sqrt(mix[OUTPUTS] / f32(HC * N_EMBD) + p.eps);
    if (!HEAD) {
        if (block.x == 1u) {
            let at = block.y * (HC + HC * HC);
            if (t < 32u) {
                let c = sinkhorn(factor);
                for (var i = 0u; i < HC * HC; i += 1u) {
                    if (t == i % 32u) {
                        merge[at + HC + i] = c[i];
                    }
                }
            }
            if (t < HC) {
                let v = fma(mix[HC + t] * factor, vectors[p.scale + 1u], vectors[p.base + HC + t]);
                merge[at + t] = 2.0 * sigmoid(v);
            }
            return;
        }
    }
    var give: array<f32, HC>;
    for (var i = 0u; i < HC; i += 1u) {
        give[i] = sigmoid(fma(mix[i] * factor, give_scale, bias[i])) + p.hc_eps;
    }
    var own: array<vec4<f32>, EACH>;
    var squares = 0.0;
    for (var e = 0u; e < EACH; e += 1u) {
        let i = e * WG + t;
        if (i < WIDTH) {
            var v = vec4<f32>();
            for (var k = 0u; k < HC; k += 1u) {
                v = fma(vec4<f32>(give[k]), streams_of[e * HC + k], v);
            }
            own[e] = v;
            squares = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, squares))));
        }
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(N_EMBD) + p.eps);
    for (var e = 0u; e < EACH; e += 1u) {
        let i = e * WG + t;
        var v = vec4<f32>();
        if (i < WIDTH) {
            v = own[e] * scale * weights[e];
            input[block.y * WIDTH + i] = v;
        }
        if (INTEGERS) {
            let q = quantize_quad(v, t);
            if (i < WIDTH) {
                codes[block.y * WIDTH + i] = q.codes;
                if (i % 8u == 0u) {
                    scales[(block.y * WIDTH + i) / 8u] = q.scale;
                }
            }
        }
    }
}
