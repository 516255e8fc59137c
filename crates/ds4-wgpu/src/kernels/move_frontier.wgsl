// Storing compressor frontiers.

fn put(at: u32, v: f32) {
    slots[at] = bitcast<u32>(v);
}

/// Moves channel `d` of a compressor's frontier to the end of a span.
fn move_frontier(c: Compressor, span: Span, d: u32) {
    let frontier = span.slot * p.slot_words + c.frontier;
    let width = width_of(c);
    let end = span.first_position + span.len;
    if (!OVERLAPPING) {
        var r = Running(NEVER, 0.0, 0.0);
        if (end % RATIO != 0u) {
            r = run_window(c, span, frontier, end - 1u, d);
        }
        put(frontier + d, r.most);
        put(frontier + c.dim + d, r.sum);
        put(frontier + 2u * c.dim + d, r.weighted);
        return;
    }
    let closed = end / RATIO > span.first_position / RATIO;
    for (var s = 0u; s < RATIO; s += 1u) {
        let open = frontier + s * width;
        if (closed) {
            // The last closed window's first half, before its place is overwritten.
            let token = (end / RATIO - 1u) * RATIO + s;
            var f = Feature(stored(open + d), stored(open + RATIO * width + d));
            if (token >= span.first_position) {
                f = batch_feature(c, span, token, d);
            }
            let previous = frontier + 2u * RATIO * width + s * c.dim + d;
            put(previous, f.value);
            put(previous + RATIO * c.dim, f.gate);
        }
        let token = end / RATIO * RATIO + s;
        for (var channel = d; channel < width; channel += c.dim) {
            if (token >= end) {
                put(open + channel, 0.0);
                put(open + RATIO * width + channel, NEVER);
            } else if (token >= span.first_position) {
                let f = batch_feature(c, span, token, channel);
                put(open + channel, f.value);
                put(open + RATIO * width + channel, f.gate);
            }
        }
    }
}
