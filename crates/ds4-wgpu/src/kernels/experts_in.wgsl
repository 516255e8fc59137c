// The experts' first half for single rows: gate and up projections, their inner values and these as int8, each slot by itself.
// A slot is one expert of one row; the last of a row is the shared expert (the "other" weights), whose weight is 1. The sums are
// those of `product.wgsl`, the inner values those of `swiglu.wgsl`. grid: (groups of 32 inner values, slots from first_slot of rows).

struct Params {
    /// Byte offsets of the routed experts' matrices, of the shared expert's; bytes of their rows and of a routed matrix.
    gate: u32,
    up: u32,
    row_bytes: u32,
    matrix_bytes: u32,
    other_gate: u32,
    other_up: u32,
    other_row_bytes: u32,
    /// Where the chosen experts' weights begin among `choices`; first row of the batch; slots of each row that are computed here.
    weights_at: u32,
    first_row: u32,
    first_slot: u32,
    slots: u32,
    limit: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x_scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(6) var<storage, read> choices: array<u32>;
@group(0) @binding(7) var<storage, read_write> scales: array<f32>;

const LANES: u32 = 32u;
const PARTS: u32 = WG / LANES;
const EACH: u32 = 32u / PARTS;
const LEFT: u32 = LANES / SPAN;
const UNITS: u32 = N_EMBD / 32u;

var<workgroup> sums: array<f32, 64u * LEFT>;
var<workgroup> results: array<f32, 32>;

/// The sum number `i` of the workgroup.
fn total(i: u32) -> f32 {
    var tree: array<f32, LEFT>;
    for (var k = 0u; k < LEFT; k += 1u) {
        tree[k] = sums[i * LEFT + k];
    }
    for (var step = 1u; step < LEFT; step *= 2u) {
        for (var k = 0u; k < LEFT; k += 2u * step) {
            tree[k] += tree[k + step];
        }
    }
    return tree[0];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    prepare_weights(t);
    let lane = t % LANES;
    let part = t / LANES;
    let row = block.y / p.slots;
    let slot = p.first_slot + block.y % p.slots;
    let first = block.x * 32u + part * EACH;
    let x_row = (p.first_row + row) * UNITS;
    var weight = 1.0;
    var matrix = 0u;
    if (slot < USED) {
        let choice = (p.first_row + row) * USED + slot;
        matrix = choices[choice] * p.matrix_bytes;
        weight = bitcast<f32>(choices[p.weights_at + choice]);
    }
    var gate: array<f32, EACH>;
    var up: array<f32, EACH>;
    if (slot < USED) {
        for (var u = lane; u < UNITS; u += LANES) {
            let low = x[2u * (x_row + u)];
            let high = x[2u * (x_row + u) + 1u];
            let d = x_scales[x_row + u];
            for (var r = 0u; r < EACH; r += 1u) {
                let at = matrix + (first + r) * p.row_bytes;
                gate[r] = add_unit(load_unit(p.gate + at, u, UNITS), low, high, d, gate[r]);
                up[r] = add_unit(load_unit(p.up + at, u, UNITS), low, high, d, up[r]);
            }
        }
    } else {
        for (var u = lane; u < UNITS; u += LANES) {
            let low = x[2u * (x_row + u)];
            let high = x[2u * (x_row + u) + 1u];
            let d = x_scales[x_row + u];
            for (var r = 0u; r < EACH; r += 1u) {
                let at = (first + r) * p.other_row_bytes;
                gate[r] = add_other(load_other(p.other_gate + at, u, UNITS), low, high, d, gate[r]);
                up[r] = add_other(load_other(p.other_up + at, u, UNITS), low, high, d, up[r]);
            }
        }
    }
    for (var r = 0u; r < EACH; r += 1u) {
        let gate_sum = span_sum(gate[r]);
        let up_sum = span_sum(up[r]);
        if (lane % SPAN == 0u) {
            sums[(part * EACH + r) * LEFT + lane / SPAN] = gate_sum;
            sums[(32u + part * EACH + r) * LEFT + lane / SPAN] = up_sum;
        }
    }
    workgroupBarrier();
    if (t < 32u) {
        let a = min(total(t), p.limit);
        let b = clamp(total(32u + t), -p.limit, p.limit);
        results[t] = a / (1.0 + exp(-a)) * b * weight;
    }
    workgroupBarrier();
    let i = 4u * (t % 8u);
    let q = quantize_quad(vec4<f32>(results[i], results[i + 1u], results[i + 2u], results[i + 3u]), t);
    if (t < 8u) {
        let to = (row * (USED + 1u) + slot) * (N_FF / 32u) + block.x;
        codes[8u * to + t] = q.codes;
        if (t == 0u) {
            scales[to] = q.scale;
        }
    }
}
