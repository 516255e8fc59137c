// Rows of up to seven matrices of one format times a few rows of activations. FLOATS: some of the matrices may be of an unquantized
// format, beside a block format that takes the int8 form of the same activations; see `gemv_floats.wgsl`.
//
// A workgroup has PARTS parts of 32 lanes, a part takes EACH matrix rows at a time. Lanes take the units of the inner dimension in turn,
// and a fixed tree adds them up: the order of additions is that of `product.wgsl`. `gemv_values.wgsl` or `gemv_codes.wgsl` says where
// results go. grid: (tiles of X_ROWS activation rows, blocks of PARTS * EACH matrix rows).

struct Matrix {
    /// Byte offset of the first row in the binding, bytes of a row, number of rows, number of the first workgroup.
    base: u32,
    row_bytes: u32,
    rows: u32,
    first_block: u32,
    /// Place of the first result, values from one row of results to the next; factor on results.
    y_first: u32,
    y_stride: u32,
    scale: f32,
    /// Whether the matrix is of the unquantized format.
    floats: u32,
}

struct Params {
    /// Units of a matrix row, vec4s from one row of activations to the next.
    units: u32,
    x_stride: u32,
    matrices: u32,
    /// Every group_rows matrix rows take the next `units` of the activations; `rows_before` come before the binding's first.
    group_rows: u32,
    rows_before: u32,
    /// Number of activation rows.
    count: u32,
    pad1: u32,
    pad2: u32,
    list: array<Matrix, 7>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> x_scales: array<f32>;

const LANES: u32 = 32u;
/// Units of a row that are loaded together.
const AHEAD: u32 = select(4u, 8u, UNIT == 8u && X_ROWS == 1u) / EACH;
const PARTS: u32 = WG / LANES;
/// Values that a tree still has to add after the spans.
const LEFT: u32 = LANES / SPAN;

var<workgroup> sums: array<f32, PARTS * EACH * LEFT>;

/// This lane's sums over the units of EACH matrix rows, whose bytes begin at `rows`, for each of the activation rows.
fn lane_sums(rows: array<u32, EACH>, activations: array<u32, X_ROWS>, lane: u32) -> array<f32, EACH * X_ROWS> {
    var row_at = rows;
    var x_at = activations;
    var acc: array<f32, EACH * X_ROWS>;
    // Several units are loaded before the first is used.
    for (var begin = lane; begin < p.units; begin += AHEAD * LANES) {
        var units: array<Unit, AHEAD * EACH>;
        for (var a = 0u; a < AHEAD; a += 1u) {
            let u = min(begin + a * LANES, p.units - 1u);
            for (var r = 0u; r < EACH; r += 1u) {
                units[a * EACH + r] = load_unit(row_at[r], u, p.units);
            }
        }
        for (var i = 0u; i < X_ROWS; i += 1u) {
            var low: array<vec4<u32>, AHEAD>;
            var high: array<vec4<u32>, AHEAD>;
            var d: array<f32, AHEAD>;
            for (var a = 0u; a < AHEAD; a += 1u) {
                let at = x_at[i] + 2u * min(begin + a * LANES, p.units - 1u);
                low[a] = x[at];
                high[a] = x[at + 1u];
                if (INTEGERS) {
                    d[a] = x_scales[at / 2u];
                }
            }
            for (var a = 0u; a < AHEAD; a += 1u) {
                let inside = begin + a * LANES < p.units;
                for (var r = 0u; r < EACH; r += 1u) {
                    let sum = acc[r * X_ROWS + i];
                    acc[r * X_ROWS + i] = select(sum, add_unit(units[a * EACH + r], low[a], high[a], d[a], sum), inside);
                }
            }
        }
    }
    return acc;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    prepare_weights(t);
    let lane = t % LANES;
    let part = t / LANES;
    var number = 0u;
    for (var i = 1u; i < p.matrices; i += 1u) {
        if (block.y >= p.list[i].first_block) {
            number = i;
        }
    }
    let matrix = p.list[number];
    let is_float = FLOATS && matrix.floats != 0u;
    let each = select(EACH, 1u, is_float);
    let block_first = (block.y - matrix.first_block) * PARTS * each;
    let first = block_first + part * each;
    var acc: array<f32, EACH * X_ROWS>;
    if (is_float) {
        var found = float_sums(matrix.base + min(first, matrix.rows - 1u) * matrix.row_bytes, block.x * X_ROWS, lane);
        for (var i = 0u; i < X_ROWS; i += 1u) {
            acc[i] = found[i];
        }
    } else {
        // All rows of a workgroup are in one group: group_rows is a multiple of what a workgroup has, or there is one group.
        let x_first = (p.rows_before + block_first) / p.group_rows * p.units;
        var x_at: array<u32, X_ROWS>;
        for (var i = 0u; i < X_ROWS; i += 1u) {
            x_at[i] = min(block.x * X_ROWS + i, p.count - 1u) * p.x_stride + 2u * x_first;
        }
        var row_at: array<u32, EACH>;
        for (var r = 0u; r < EACH; r += 1u) {
            row_at[r] = matrix.base + min(first + r, matrix.rows - 1u) * matrix.row_bytes;
        }
        acc = lane_sums(row_at, x_at, lane);
    }
    for (var i = 0u; i < X_ROWS; i += 1u) {
        workgroupBarrier();
        for (var r = 0u; r < EACH; r += 1u) {
            let sum = span_sum(acc[r * X_ROWS + i]);
            if (lane % SPAN == 0u && r < each) {
                sums[(part * each + r) * LEFT + lane / SPAN] = sum;
            }
        }
        workgroupBarrier();
        var result = 0.0;
        if (t < PARTS * each) {
            var tree: array<f32, LEFT>;
            for (var k = 0u; k < LEFT; k += 1u) {
                tree[k] = sums[t * LEFT + k];
            }
            for (var step = 1u; step < LEFT; step *= 2u) {
                for (var k = 0u; k < LEFT; k += 2u * step) {
                    tree[k] += tree[k + step];
                }
            }
            result = tree[0] * matrix.scale;
        }
        let row = block.x * X_ROWS + i;
        if (row < p.count) {
            store(t, result, PARTS * each, matrix.y_first + row * matrix.y_stride, block_first, matrix.rows);
        }
    }
}
