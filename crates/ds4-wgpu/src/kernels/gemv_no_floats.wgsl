// For `gemv.wgsl` without matrices of an unquantized format.

fn float_sums(row: u32, first: u32, lane: u32) -> array<f32, X_ROWS> {
    return array<f32, X_ROWS>();
}
