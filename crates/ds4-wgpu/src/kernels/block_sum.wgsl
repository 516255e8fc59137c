// Sum over a workgroup of WG invocations in a fixed tree.

/// Spans of a workgroup.
const SPANS: u32 = WG / SPAN;
const FEW: u32 = 32u;

var<workgroup> block_sum_parts: array<f32, SPANS>;

/// The sum of every invocation's `v`, in all of them. `t`: index of the invocation.
fn block_sum(v: f32, t: u32) -> f32 {
    let span = span_sum(v);
    workgroupBarrier();
    if (t % SPAN == 0u) {
        block_sum_parts[t / SPAN] = span;
    }
    workgroupBarrier();
    if (SPANS <= FEW) {
        // So few that every invocation adds them up by itself, in the order of the loop below.
        var tree: array<f32, min(SPANS, FEW)>;
        for (var i = 0u; i < min(SPANS, FEW); i += 1u) {
            tree[i] = block_sum_parts[i];
        }
        for (var step = 1u; step < min(SPANS, FEW); step *= 2u) {
            for (var i = 0u; i < min(SPANS, FEW); i += 2u * step) {
                tree[i] += tree[i + step];
            }
        }
        return tree[0];
    }
    for (var step = 1u; step < SPANS; step *= 2u) {
        if (t < SPANS && t % (2u * step) == 0u) {
            block_sum_parts[t] += block_sum_parts[t + step];
        }
        workgroupBarrier();
    }
    return block_sum_parts[0];
}
