// Hyper-connections, first half: slices of the flattened streams times the projection, and their sums of squares.
//
// The projection is float32, [outputs][HC * n_embd]. Partial sums go to `partial`, [rows][slices][OUTPUTS + 1], the squares last.
// grid: (slices of SLICE columns, rows).

struct Params {
    project: u32,
    /// Whether rows are taken through `wanted`.
    indirect: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> project: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> streams: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> wanted: array<u32>;
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;

const COLUMNS: u32 = HC * N_EMBD;
const SLICES: u32 = (COLUMNS + SLICE - 1u) / SLICE;
const SUMS: u32 = OUTPUTS + 1u;
const LANES: u32 = 32u;
const PARTS: u32 = WG / LANES;
/// Sums that a part of the workgroup makes.
const EACH: u32 = (SUMS + PARTS - 1u) / PARTS;
const LEFT: u32 = LANES / SPAN;

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
    let lane = t % LANES;
    let part = t / LANES;
    let first = block.x * SLICE / 4u;
    let last = min((block.x + 1u) * SLICE, COLUMNS) / 4u;
    var acc: array<f32, EACH>;
    for (var i = first + lane; i < last; i += LANES) {
        let v = streams[row * (COLUMNS / 4u) + i];
        for (var j = 0u; j < EACH; j += 1u) {
            let output = part * EACH + j;
            if (output < OUTPUTS) {
                acc[j] = add_four(project[p.project / 4u + output * (COLUMNS / 4u) + i], v, acc[j]);
            } else if (output == OUTPUTS) {
                acc[j] = add_four(v, v, acc[j]);
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
