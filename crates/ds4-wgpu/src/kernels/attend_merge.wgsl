// Puts the chunks of one head and row together, with the sink, and rotates back. grid: (heads, batch rows from first_row).

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

const CHUNK: u32 = 32u;
const QUADS: u32 = HEAD_DIM / 4u;
const ALL: u32 = 0xFFFFFFFFu;

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
    for (var c = 0u; c < chunks; c += 1u) {
        most = max(most, parts[begin + c * stride + QUADS].x);
    }
    for (var quad = t; quad < QUADS; quad += WG) {
        var total = exp(sink - most);
        var sum = vec4<f32>();
        for (var c = 0u; c < chunks; c += 1u) {
            let state = parts[begin + c * stride + QUADS];
            let factor = exp(state.x - most);
            total = fma(factor, state.y, total);
            sum = fma(vec4<f32>(factor), parts[begin + c * stride + quad], sum);
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
        attended[(row * N_HEAD + block.x) * QUADS + quad] = out;
    }
}
