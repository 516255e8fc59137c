// Sums over spans of SPAN neighbouring invocations by exchange inside a subgroup. Partners are i and i ^ step, so the tree of
// additions is the same for every SPAN, and the same as in lanes.wgsl.

fn span_sum(v: f32) -> f32 {
    var sum = v;
    for (var step = 1u; step < SPAN; step *= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    return sum;
}

/// Whether neighbouring invocations are neighbours in their subgroup, which the exchange relies on.
fn neighbours_exchange(t: u32) -> bool {
    var right = true;
    for (var step = 1u; step < SPAN; step *= 2u) {
        right = right && subgroupShuffleXor(t, step) == (t ^ step);
    }
    return right;
}
