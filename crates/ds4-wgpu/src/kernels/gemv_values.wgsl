// Results of `gemv.wgsl` as values.

@group(0) @binding(4) var<storage, read_write> y: array<f32>;

/// Stores `result`, which is number `t` of a workgroup's `count`; `first` is the first one's number in a row of `rows` results that
/// begins at `at`.
fn store(t: u32, result: f32, count: u32, at: u32, first: u32, rows: u32) {
    if (t < count && first + t < rows) {
        y[at + first + t] = result;
    }
}
