// Rows of a matrix times rows of activations.
//
// A workgroup has four parts of 32 lanes. A part computes OUT_ROWS results for each of X_ROWS activation rows: its lanes take the
// units of the inner dimension in turn, and a fixed tree adds them up. The order of additions does not depend on X_ROWS, so one row
// gives the same bits alone and in company. With more than one activation row, these go through workgroup memory.
//
// grid: (matrix rows / (4 OUT_ROWS), tiles of X_ROWS activation rows or items of experts).

struct Params {
    /// Byte offset of the first matrix of the binding, bytes of a row and of a matrix.
    base: u32,
    row_bytes: u32,
    matrix_bytes: u32,
    /// Rows of the matrix here, units of a row.
    rows: u32,
    units: u32,
    /// Number of activation rows; activation row i is row i * x_mul + x_add of `x`, its result row i * y_mul + y_add of `y`.
    count: u32,
    x_mul: u32,
    x_add: u32,
    y_mul: u32,
    y_add: u32,
    /// vec4s from one row of `x` to the next, values from one row of `y` to the next, column of the first result.
    x_stride: u32,
    y_stride: u32,
    y_column: u32,
    /// Every group_rows matrix rows take the next `units` of the activations; `rows_before` come before the binding's first.
    group_rows: u32,
    rows_before: u32,
    scale: f32,
    /// Experts in the binding; slots of a row (used experts and the shared one); first batch row of the slots.
    first_expert: u32,
    experts: u32,
    slots: u32,
    first_row: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x_scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
// Which activation rows meet which matrix: experts of each slot, or tiles of slots with one expert (see `group_slots.wgsl`).
@group(0) @binding(6) var<storage, read> choices: array<u32>;

const LANES: u32 = 32u;
const PARTS: u32 = 4u;
/// Values that a tree still has to add after the spans.
const LEFT: u32 = LANES / min(SPAN, LANES);

var<workgroup> stage: array<vec4<u32>, STAGED * LANES * 2u>;
var<workgroup> stage_scales: array<f32, STAGED * LANES>;
var<workgroup> sums: array<f32, PARTS * X_ROWS * LEFT>;

/// The matrix and the activation rows of one workgroup.
struct Task {
    matrix: u32,
    first: u32,
    count: u32,
}

fn task_of(tile: u32) -> Task {
    if (MODE == DENSE) {
        return Task(0u, tile * X_ROWS, min(X_ROWS, p.count - tile * X_ROWS));
    }
    if (MODE == BY_SLOT) {
        return Task(choices[tile + p.first_row * (p.slots - 1u)], tile, 1u);
    }
    if (tile >= choices[0]) {
        return Task(0u, 0u, 0u);
    }
    let item = 4u + 4u * tile;
    return Task(choices[item], choices[item + 1u], choices[item + 2u]);
}

/// The slot of activation `i` of a task: row * slots + choice.
fn slot_of(task: Task, i: u32) -> u32 {
    let j = task.first + i;
    if (MODE == BY_SLOT) {
        return j / (p.slots - 1u) * p.slots + j % (p.slots - 1u);
    }
    return choices[j];
}

fn x_row(task: Task, i: u32) -> u32 {
    if (MODE == DENSE) {
        return (task.first + i) * p.x_mul + p.x_add;
    }
    // `x` has a row for each slot (x_mul 1), or for each row of the batch.
    let slot = slot_of(task, i);
    return select(p.first_row + slot / p.slots, slot, p.x_mul == 1u);
}

fn y_row(task: Task, i: u32) -> u32 {
    if (MODE == DENSE) {
        return (task.first + i) * p.y_mul + p.y_add;
    }
    return slot_of(task, i);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    prepare_weights(t);
    let lane = t % LANES;
    let part = t / LANES;
    let task = task_of(block.y);
    if (task.count == 0u || (MODE != DENSE && (task.matrix < p.first_expert || task.matrix - p.first_expert >= p.experts))) {
        return;
    }
    let matrix = p.base + (task.matrix - select(p.first_expert, 0u, MODE == DENSE)) * p.matrix_bytes;
    let first_out = (block.x * PARTS + part) * OUT_ROWS;
    // All rows of a workgroup are in one group: group_rows is a multiple of what a workgroup has, or there is one group.
    let group = (p.rows_before + block.x * PARTS * OUT_ROWS) / p.group_rows;
    let x_first = group * p.units;

    var acc: array<f32, OUT_ROWS * X_ROWS>;
    for (var first = 0u; first < p.units; first += LANES) {
        if (STAGED > 1u) {
            workgroupBarrier();
            for (var i = t; i < X_ROWS * LANES * 2u; i += WG) {
                let row = i / (LANES * 2u);
                let at = i % (LANES * 2u);
                var value = vec4<u32>();
                if (row < task.count && 2u * first + at < 2u * p.units) {
                    value = x[x_row(task, row) * p.x_stride + 2u * (x_first + first) + at];
                }
                stage[i] = value;
            }
            if (INTEGERS) {
                for (var i = t; i < X_ROWS * LANES; i += WG) {
                    let row = i / LANES;
                    let at = first + i % LANES;
                    var value = 0.0;
                    if (row < task.count && at < p.units) {
                        value = x_scales[x_row(task, row) * (p.x_stride / 2u) + x_first + at];
                    }
                    stage_scales[i] = value;
                }
            }
            workgroupBarrier();
        }
        let u = first + lane;
        if (u < p.units) {
            var unit: array<Unit, OUT_ROWS>;
            for (var r = 0u; r < OUT_ROWS; r += 1u) {
                let row = min(first_out + r, p.rows - 1u);
                unit[r] = load_unit(matrix + row * p.row_bytes, u, p.units);
            }
            for (var i = 0u; i < X_ROWS; i += 1u) {
                if (DECODED) {
                    let at = x_row(task, i) * p.x_stride + (x_first + u) * UNIT_VEC4;
                    for (var r = 0u; r < OUT_ROWS; r += 1u) {
                        var sum = acc[r * X_ROWS + i];
                        for (var w = 0u; w < UNIT_VEC4; w += 1u) {
                            let a = unit_vec4(unit[r], w);
                            let b = bitcast<vec4<f32>>(x[at + w]);
                            sum = fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
                        }
                        acc[r * X_ROWS + i] = sum;
                    }
                    continue;
                }
                var low: vec4<u32>;
                var high: vec4<u32>;
                var d = 1.0;
                if (STAGED > 1u) {
                    let at = (i * LANES + lane) * 2u;
                    low = stage[at];
                    high = stage[at + 1u];
                    d = stage_scales[i * LANES + lane];
                } else {
                    let at = x_row(task, i) * p.x_stride + 2u * (x_first + u);
                    low = x[at];
                    high = x[at + 1u];
                    if (INTEGERS) {
                        d = x_scales[at / 2u];
                    }
                }
                for (var r = 0u; r < OUT_ROWS; r += 1u) {
                    acc[r * X_ROWS + i] = add_unit(unit[r], low, high, d, acc[r * X_ROWS + i]);
                }
            }
        }
    }

    for (var r = 0u; r < OUT_ROWS; r += 1u) {
        workgroupBarrier();
        for (var i = 0u; i < X_ROWS; i += 1u) {
            let sum = span_sum(acc[r * X_ROWS + i]);
            if (lane % (LANES / LEFT) == 0u) {
                sums[(part * X_ROWS + i) * LEFT + lane / (LANES / LEFT)] = sum;
            }
        }
        workgroupBarrier();
        let out = (block.x * PARTS + t / X_ROWS) * OUT_ROWS + r;
        let i = t % X_ROWS;
        if (t < PARTS * X_ROWS && i < task.count && out < p.rows) {
            var tree: array<f32, LEFT>;
            for (var k = 0u; k < LEFT; k += 1u) {
                tree[k] = sums[t * LEFT + k];
            }
            for (var step = 1u; step < LEFT; step *= 2u) {
                for (var k = 0u; k < LEFT; k += 2u * step) {
                    tree[k] += tree[k + step];
                }
            }
            y[y_row(task, i) * p.y_stride + p.y_column + out] = tree[0] * p.scale;
        }
    }
}
