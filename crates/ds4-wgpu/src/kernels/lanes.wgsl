// Sums over neighbouring invocations without subgroup operations: a span is one invocation.

const SPAN: u32 = 1u;

fn span_sum(v: f32) -> f32 {
    return v;
}

/// Whether neighbours exchange values as `span_sum` assumes.
fn neighbours_exchange(t: u32) -> bool {
    return true;
}
