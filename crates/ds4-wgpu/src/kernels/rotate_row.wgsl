// Norm and rotation of a row in workgroup memory.

/// Makes `row_values` [dim] normalized times the weight at `norm`, its last ROPE channels rotated by the angles at `angle`.
/// All invocations call it; their parts of the row need not be visible to others yet.
fn norm_and_rotate(t: u32, dim: u32, norm: u32, angle: u32, eps: f32) {
    var squares = 0.0;
    for (var i = t; i < dim; i += WG) {
        let v = row_values[i];
        squares = fma(v, v, squares);
    }
    let scale = 1.0 / sqrt(block_sum(squares, t) / f32(dim) + eps);
    for (var i = t; i < dim; i += WG) {
        row_values[i] = row_values[i] * scale * vectors[norm + i];
    }
    workgroupBarrier();
    for (var i = t; i < ROPE / 2u; i += WG) {
        let at = dim - ROPE + 2u * i;
        let a = row_values[at];
        let b = row_values[at + 1u];
        let turn = angles[angle + i];
        row_values[at] = fma(a, turn.x, -(b * turn.y));
        row_values[at + 1u] = fma(a, turn.y, b * turn.x);
    }
}
