// Matrices of an unquantized format in `gemv.wgsl`, with float32 activations: a part takes one matrix row at a time.

@group(0) @binding(7) var<storage, read> x_floats: array<vec4<u32>>;

/// Units of a row that are loaded together.
const FLOATS_AHEAD: u32 = select(4u, 8u, X_ROWS == 1u);

/// This lane's sums over the units of the matrix row that begins at `row`, for the activation rows from `first`.
fn float_sums(row: u32, first: u32, lane: u32) -> array<f32, X_ROWS> {
    // Units of block formats have 32 weights, these eight.
    let units = 4u * p.units;
    var acc: array<f32, X_ROWS>;
    for (var begin = lane; begin < units; begin += FLOATS_AHEAD * LANES) {
        var some: array<FloatUnit, FLOATS_AHEAD>;
        for (var a = 0u; a < FLOATS_AHEAD; a += 1u) {
            some[a] = load_floats(row, min(begin + a * LANES, units - 1u), units);
        }
        for (var i = 0u; i < X_ROWS; i += 1u) {
            let x_at = min(first + i, p.count - 1u) * 2u * units;
            for (var a = 0u; a < FLOATS_AHEAD; a += 1u) {
                let at = x_at + 2u * min(begin + a * LANES, units - 1u);
                let sum = add_floats(some[a], x_floats[at], x_floats[at + 1u], acc[i]);
                acc[i] = select(acc[i], sum, begin + a * LANES < units);
            }
        }
    }
    return acc;
}
