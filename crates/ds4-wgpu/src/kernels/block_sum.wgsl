// Sum over a workgroup of WG invocations in a fixed tree.

var<workgroup> block_sum_parts: array<f32, WG / SPAN>;

/// The sum of every invocation's `v`, in all of them. `t`: index of the invocation.
fn block_sum(v: f32, t: u32) -> f32 {
    let span = span_sum(v);
    workgroupBarrier();
    if (t % SPAN == 0u) {
        block_sum_parts[t / SPAN] = span;
    }
    for (var step = 1u; step < WG / SPAN; step *= 2u) {
        workgroupBarrier();
        if (t < WG / SPAN && t % (2u * step) == 0u) {
            block_sum_parts[t] += block_sum_parts[t + step];
        }
    }
    workgroupBarrier();
    return block_sum_parts[0];
}
