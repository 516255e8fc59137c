// The experts' second half for single rows: down projections of all slots of a row, added in the order of the choice, the shared
// expert (the "other" weights) last. The sums are those of `product.wgsl` and `combine.wgsl`. grid: (blocks of PARTS output values, rows).

struct Params {
    /// Byte offset of the routed experts' matrices, bytes of a row and of a matrix; the shared expert's.
    base: u32,
    row_bytes: u32,
    matrix_bytes: u32,
    other_base: u32,
    other_row_bytes: u32,
    first_row: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x_scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
@group(0) @binding(6) var<storage, read> choices: array<u32>;

const LANES: u32 = 32u;
const PARTS: u32 = WG / LANES;
const LEFT: u32 = LANES / SPAN;
const UNITS: u32 = N_FF / 32u;
const SLOTS: u32 = USED + 1u;

var<workgroup> sums: array<f32, PARTS * SLOTS * LEFT>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    prepare_weights(t);
    let lane = t % LANES;
    let part = t / LANES;
    let out = min(block.x * PARTS + part, N_EMBD - 1u);
    var acc: array<f32, SLOTS>;
    for (var slot = 0u; slot < USED; slot += 1u) {
        let x_row = (block.y * SLOTS + slot) * UNITS;
        let row = p.base + choices[(p.first_row + block.y) * USED + slot] * p.matrix_bytes + out * p.row_bytes;
        for (var u = lane; u < UNITS; u += LANES) {
            let unit = load_unit(row, u, UNITS);
            acc[slot] = add_unit(unit, x[2u * (x_row + u)], x[2u * (x_row + u) + 1u], x_scales[x_row + u], acc[slot]);
        }
    }
    let x_row = (block.y * SLOTS + USED) * UNITS;
    for (var u = lane; u < UNITS; u += LANES) {
        let unit = load_other(p.other_base + out * p.other_row_bytes, u, UNITS);
        acc[USED] = add_other(unit, x[2u * (x_row + u)], x[2u * (x_row + u) + 1u], x_scales[x_row + u], acc[USED]);
    }
    for (var slot = 0u; slot < SLOTS; slot += 1u) {
        let sum = span_sum(acc[slot]);
        if (lane % SPAN == 0u) {
            sums[(part * SLOTS + slot) * LEFT + lane / SPAN] = sum;
        }
    }
    workgroupBarrier();
    let mine = block.x * PARTS + t;
    if (t < PARTS && mine < N_EMBD) {
        var all = 0.0;
        for (var slot = 0u; slot < SLOTS; slot += 1u) {
            var tree: array<f32, LEFT>;
            for (var k = 0u; k < LEFT; k += 1u) {
                tree[k] = sums[(t * SLOTS + slot) * LEFT + k];
            }
            for (var step = 1u; step < LEFT; step *= 2u) {
                for (var k = 0u; k < LEFT; k += 2u * step) {
                    tree[k] += tree[k + step];
                }
            }
            all += tree[0];
        }
        output[(p.first_row + block.y) * N_EMBD + mine] = all;
    }
}
