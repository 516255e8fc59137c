// Hyper-connections, first half: a slice of the flattened streams times the projection, and its sum of squares. MERGE: the last
// sublayer's output enters the streams here: S'_k = post_k y + sum_j comb_jk S_j, the sum running over comb's first index.
//
// A slice is SLICE columns of every stream. The projection is float32, [outputs][HC * n_embd]. Partial sums go to `partial`,
// [rows][slices][OUTPUTS + 1], the squares last. grid: (slices, rows).

struct Params {
    project: u32,
    /// Whether rows are taken through `wanted`.
    indirect: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> project: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> streams: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> wanted: array<u32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
@group(0) @binding(5) var<storage, read> merge: array<f32>;
@group(0) @binding(6) var<storage, read> output: array<vec4<f32>>;

const QUADS: u32 = SLICE / 4u;
const WIDTH: u32 = N_EMBD / 4u;
const SLICES: u32 = (N_EMBD + SLICE - 1u) / SLICE;
const SUMS: u32 = OUTPUTS + 1u;
const LANES: u32 = 32u;
const PARTS: u32 = WG / LANES;
/// Sums that a part of the workgroup makes.
const EACH: u32 = (SUMS + PARTS - 1u) / PARTS;
const LEFT: u32 = LANES / SPAN;

var<workgroup> values: array<vec4<f32>, HC * QUADS>;
var<workgroup> sums: array<f32, PARTS * EACH * LEFT>;

fn add_four(w: vec4<f32>, x: vec4<f32>, sum: f32) -> f32 {
    return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var row = block.y;
    if (p.indirect != 0u) {
        row = wanted[row];
    }
    for (var i = t; i < HC * QUADS; i += WG) {
        let k = i / QUADS;
        let column = block.x * QUADS + i % QUADS;
        var value = vec4<f32>();
        if (column < WIDTH) {
            if (MERGE) {
                let weights = row * MERGE_STEP;
                for (var j = 0u; j < HC; j += 1u) {
                    let old = streams[(row * HC + j) * WIDTH + column];
                    value = fma(vec4<f32>(merge[weights + HC + j * HC + k]), old, value);
                }
                value = fma(vec4<f32>(merge[weights + k]), output[row * WIDTH + column], value);
            } else {
                value = streams[(row * HC + k) * WIDTH + column];
            }
        }
        values[i] = value;
    }
    workgroupBarrier();
    if (MERGE) {
        for (var i = t; i < HC * QUADS; i += WG) {
            let column = block.x * QUADS + i % QUADS;
            if (column < WIDTH) {
                streams[(row * HC + i / QUADS) * WIDTH + column] = values[i];
            }
        }
    }
    let lane = t % LANES;
    let part = t / LANES;
    var acc: array<f32, EACH>;
    for (var i = lane; i < HC * QUADS; i += LANES) {
        let column = block.x * QUADS + i % QUADS;
        if (column < WIDTH) {
            let v = values[i];
            let at = p.project / 4u + i / QUADS * WIDTH + column;
            for (var j = 0u; j < EACH; j += 1u) {
                let output_number = part * EACH + j;
                if (output_number < OUTPUTS) {
                    acc[j] = add_four(project[at + output_number * (HC * WIDTH)], v, acc[j]);
                } else if (output_number == OUTPUTS) {
                    acc[j] = add_four(v, v, acc[j]);
                }
            }
        }
    }
    for (var j = 0u; j < EACH; j += 1u) {
        let sum = span_sum(acc[j]);
        if (lane % SPAN == 0u) {
            sums[(part * EACH + j) * LEFT + lane / SPAN] = sum;
        }
    }
    workgroupBarrier();
    if (t < SUMS) {
        var tree: array<f32, LEFT>;
        for (var k = 0u; k < LEFT; k += 1u) {
            tree[k] = sums[t * LEFT + k];
        }
        for (var step = 1u; step < LEFT; step *= 2u) {
            for (var k = 0u; k < LEFT; k += 2u * step) {
                tree[k] += tree[k + step];
            }
        }
        partial[(block.y * SLICES + block.x) * SUMS + t] = tree[0];
    }
}
