// Compressor frontiers (the unfinished windows) and the features of the batch.
//
// Overlapping windows: open window [RATIO][2 DIM] values, gates; first half of the previous one [RATIO][DIM] values, gates.
// Others: a running softmax per channel: largest gate [DIM], sum of weights [DIM], weighted sum [DIM].
// A gate that was never reached is NEVER instead of -infinity, so that no infinity is ever computed with.

const NEVER: f32 = -3.0e38;
const WIDTH: u32 = select(DIM, 2u * DIM, OVERLAPPING);

/// A token's value and gate of one channel.
struct Feature {
    value: f32,
    gate: f32,
}

struct Span {
    slot: u32,
    first_row: u32,
    len: u32,
    first_position: u32,
    pages: u32,
}

fn span_of(index: u32) -> Span {
    let at = index * 8u;
    return Span(tables[at], tables[at + 1u], tables[at + 2u], tables[at + 3u], tables[at + 4u]);
}

fn batch_feature(span: Span, position: u32, channel: u32) -> Feature {
    let at = (span.first_row + position - span.first_position) * WIDTH + channel;
    return Feature(kv[at], gate[at] + vectors[p.ape + position % RATIO * WIDTH + channel]);
}

fn stored(at: u32) -> f32 {
    return bitcast<f32>(slots[at]);
}

/// Softmax over the gates, weighted sum of the values: channel `d` of the window that ends at `position`. Slots 0 to RATIO - 1 are the
/// previous window's tokens with their first half, the others the window's own with their second half.
fn pool_overlapping(span: Span, frontier: u32, position: u32, d: u32) -> f32 {
    var features: array<Feature, 2u * RATIO>;
    var most = NEVER;
    for (var s = 0u; s < 2u * RATIO; s += 1u) {
        let slot = s % RATIO;
        let channel = select(d, DIM + d, s >= RATIO);
        // The token's position plus RATIO, which is not below 0.
        let token = position + 1u + s - RATIO;
        if (token >= span.first_position + RATIO) {
            features[s] = batch_feature(span, token - RATIO, channel);
        } else if (token >= span.first_position / RATIO * RATIO + RATIO) {
            let at = frontier + slot * WIDTH + channel;
            features[s] = Feature(stored(at), stored(at + RATIO * WIDTH));
        } else {
            let at = frontier + 2u * RATIO * WIDTH + slot * DIM + d;
            features[s] = Feature(stored(at), stored(at + RATIO * DIM));
        }
        most = max(most, features[s].gate);
    }
    var sum = 0.0;
    var weighted = 0.0;
    for (var s = 0u; s < 2u * RATIO; s += 1u) {
        let weight = exp(features[s].gate - most);
        sum += weight;
        weighted = fma(weight, features[s].value, weighted);
    }
    return weighted / sum;
}

/// A running softmax.
struct Running {
    most: f32,
    sum: f32,
    weighted: f32,
}

/// Channel `d` over the tokens of the window of `position`, up to it.
fn run_window(span: Span, frontier: u32, position: u32, d: u32) -> Running {
    var r = Running(NEVER, 0.0, 0.0);
    var start = position / RATIO * RATIO;
    if (start < span.first_position) {
        r = Running(stored(frontier + d), stored(frontier + DIM + d), stored(frontier + 2u * DIM + d));
        start = span.first_position;
    }
    for (var token = start; token <= position; token += 1u) {
        let f = batch_feature(span, token, d);
        let most = max(r.most, f.gate);
        let before = exp(r.most - most);
        let now = exp(f.gate - most);
        r = Running(most, fma(r.sum, before, now), fma(r.weighted, before, now * f.value));
    }
    return r;
}
