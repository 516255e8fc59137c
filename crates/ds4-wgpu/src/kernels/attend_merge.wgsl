// Puts the chunks of one head and row together, with the sink, and rotates back; with INTEGERS as int8 as well.
// grid: (heads, batch rows from first_row).

struct Params {
    first_row: u32,
    sinks: u32,
    window: u32,
    ratio: u32,
    selecting: u32,
    most_chunks: u32,
    kind: u32,
    kinds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> angles: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> selection: array<u32>;
@group(0) @binding(5) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> attended: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> codes: array<u32>;
@group(0) @binding(8) var<storage, read_write> scales: array<f32>;

const CHUNK: u32 = 16u;
const QUADS: u32 = HEAD_DIM / 4u;
const ALL: u32 = 0xFFFFFFFFu;
/// Chunks that are loaded before the first is used; a divisor of WG.
const AHEAD: u32 = 16u;

var<workgroup> largest: array<f32, WG>;
/// Of each chunk the factor that brings it to the largest score of all, and its sum of weights.
var<workgroup> factors: array<vec2<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = p.first_row + block.y;
    let position = rows[row].y;
    var keys = min(position + 1u, p.window);
    if (p.ratio != 0u) {
        var compressed = (position + 1u) / p.ratio;
        if (p.selecting != 0u && selection[row * (TOP_K + 1u)] != ALL) {
            compressed = selection[row * (TOP_K + 1u)];
        }
        keys += compressed;
    }
    let chunks = (keys + CHUNK - 1u) / CHUNK;
    let stride = QUADS + 1u;
    let begin = (block.y * N_HEAD + block.x) * p.most_chunks * stride;
    let sink = vectors[p.sinks + block.x];
    var most = sink;
    for (var first = 0u; first < chunks; first += WG) {
        workgroupBarrier();
        largest[t] = sink;
        if (first + t < chunks) {
            largest[t] = parts[begin + (first + t) * stride + QUADS].x;
        }
        workgroupBarrier();
        for (var i = 0u; i < min(WG, chunks - first); i += 1u) {
            most = max(most, largest[i]);
        }
    }
    for (var first = 0u; first < QUADS; first += WG) {
        let quad = min(first + t, QUADS - 1u);
        var total = exp(sink - most);
        var sum = vec4<f32>();
        for (var group = 0u; group < chunks; group += WG) {
            workgroupBarrier();
            if (group + t < chunks) {
                let state = parts[begin + (group + t) * stride + QUADS];
                factors[t] = vec2<f32>(exp(state.x - most), state.y);
            } else {
                factors[t] = vec2<f32>();
            }
            workgroupBarrier();
            let last = min(WG, chunks - group);
            for (var c = 0u; c < last; c += AHEAD) {
                // Chunks past the last have the factor 0 and take the last one's values.
                var some: array<vec4<f32>, AHEAD>;
                for (var j = 0u; j < AHEAD; j += 1u) {
                    some[j] = parts[begin + (group + min(c + j, last - 1u)) * stride + quad];
                }
                for (var j = 0u; j < AHEAD; j += 1u) {
                    let factor = factors[c + j];
                    total = fma(factor.x, factor.y, total);
                    sum = fma(vec4<f32>(factor.x), some[j], sum);
                }
            }
        }
        var out = sum / total;
        if (quad >= (HEAD_DIM - ROPE) / 4u) {
            // Two pairs of channels, each turned back: (a cos + b sin, b cos - a sin).
            let turn = angles[((row * p.kinds + p.kind) * (ROPE / 2u)) / 2u + quad - (HEAD_DIM - ROPE) / 4u];
            out = vec4<f32>(
                fma(out.x, turn.x, out.y * turn.y),
                fma(out.y, turn.x, -(out.x * turn.y)),
                fma(out.z, turn.z, out.w * turn.w),
                fma(out.w, turn.z, -(out.z * turn.w)),
            );
        }
        let to = (row * N_HEAD + block.x) * QUADS + quad;
        if (first + t < QUADS) {
            attended[to] = out;
        }
        if (INTEGERS) {
            let q = quantize_quad(out, t);
            if (first + t < QUADS) {
                codes[to] = q.codes;
                if (quad % 8u == 0u) {
                    scales[to / 8u] = q.scale;
                }
            }
        }
    }
}
