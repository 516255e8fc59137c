// Hyper-connections, second half: how much each stream gives, and the sublayer's normalized input, in float32 and, with INTEGERS, as
// int8. Unless HEAD the projection's sums are kept for `merge_weights.wgsl`, which nobody waits for. grid: (1, rows).

struct Params {
    /// Offsets in `vectors`: bias, scales, norm weight.
    base: u32,
    scale: u32,
    norm: u32,
    indirect: u32,
    eps: f32,
    hc_eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> streams: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> wanted: array<u32>;
@group(0) @binding(4) var<storage, read> partial: array<f32>;
@group(0) @binding(5) var<storage, read_write> input: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> codes: array<u32>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;
// See `merge_weights.wgsl`.
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
    for (var i = t; i < SUMS * TEAM; i += WG) {
        let at = block.y * SLICES * SUMS + i % SUMS;
        var sum = 0.0;
        for (var s = i / SUMS; s < SLICES; s += 8u * TEAM) {
            var eight: array<f32, 8>;
            for (var j = 0u; j < 8u; j += 1u) {
                let slice = s + j * TEAM;
                eight[j] = select(0.0, partial[at + min(slice, SLICES - 1u) * SUMS], slice < SLICES);
            }
            sum += ((eight[0] + eight[1]) + (eight[2] + eight[3])) + ((eight[4] + eight[5]) + (eight[6] + eight[7]));
        }
        teams[i] = sum;
    }
    workgroupBarrier();
    if (t < SUMS) {
        let low = (teams[t] + teams[t + SUMS]) + (teams[t + 2u * SUMS] + teams[t + 3u * SUMS]);
        let high = (teams[t + 4u * SUMS] + teams[t + 5u * SUMS]) + (teams[t + 6u * SUMS] + teams[t + 7u * SUMS]);
        mix[t] = low + high;
        if (!HEAD) {
            merge[block.y * MERGE_STEP + HC + HC * HC + t] = low + high;
        }
    }
    workgroupBarrier();
    let factor = 1.0 / sqrt(mix[OUTPUTS] / f32(HC * N_EMBD) + p.eps);
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
