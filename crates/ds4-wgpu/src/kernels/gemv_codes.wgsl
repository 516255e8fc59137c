// Results of `gemv.wgsl` as int8: those of a workgroup are one group.

@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(6) var<storage, read_write> scales: array<f32>;

var<workgroup> results: array<f32, 32>;

/// Stores `result`, which is number `t` of a workgroup's 32; `first` is the first one's number in a row of results that begins at `at`.
fn store(t: u32, result: f32, count: u32, at: u32, first: u32, rows: u32) {
    if (t < 32u) {
        results[t] = result;
    }
    workgroupBarrier();
    let i = 4u * (t % 8u);
    let q = quantize_quad(vec4<f32>(results[i], results[i + 1u], results[i + 2u], results[i + 3u]), t);
    if (t < 8u) {
        codes[(at + first) / 4u + t] = q.codes;
        if (t == 0u) {
            scales[(at + first) / 32u] = q.scale;
        }
    }
}
