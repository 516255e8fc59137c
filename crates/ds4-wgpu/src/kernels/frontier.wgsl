// Compressor frontiers (the unfinished windows) and the features of the batch.
//
// Overlapping windows: open window [RATIO][2 DIM] values, gates; first half of the previous one [RATIO][DIM] values, gates.
// Others: a running softmax per channel: largest gate [DIM], sum of weights [DIM], weighted sum [DIM].
// A gate that was never reached is NEVER instead of -infinity, so that no infinity is ever computed with.

const NEVER: f32 = -3.0e38;

/// One of a layer's compressors: channels of its rows, place of the position bias in `vectors`, of values and gates in `projected`, and
/// of the frontier in a slot.
struct Compressor {
    dim: u32,
    ape: u32,
    kv: u32,
    gate: u32,
    frontier: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

/// Values of a feature.
fn width_of(c: Compressor) -> u32 {
    return select(c.dim, 2u * c.dim, OVERLAPPING);
}

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

fn batch_feature(c: Compressor, span: Span, position: u32, channel: u32) -> Feature {
    let width = width_of(c);
    let at = (span.first_row + position - span.first_position) * width + channel;
    let bias = vectors[c.ape + position % RATIO * width + channel];
    return Feature(bitcast<f32>(projected[c.kv + at]), bitcast<f32>(projected[c.gate + at]) + bias);
}

fn stored(at: u32) -> f32 {
    return bitcast<f32>(slots[at]);
}

/// Softmax over the gates, weighted sum of the values: channel `d` of the window that ends at `position`. Slots 0 to RATIO - 1 are the
/// previous window's tokens with their first half, the others the window's own with their second half.
fn pool_overlapping(c: Compressor, span: Span, frontier: u32, position: u32, d: u32) -> f32 {
    var features: array<Feature, 2u * RATIO>;
    var most = NEVER;
    let width = width_of(c);
    for (var s = 0u; s < 2u * RATIO; s += 1u) {
        let slot = s % RATIO;
        let channel = select(d, c.dim + d, s >= RATIO);
        // The token's position plus RATIO, which is not below 0.
        let token = position + 1u + s - RATIO;
        if (token >= span.first_position + RATIO) {
            features[s] = batch_feature(c, span, token - RATIO, channel);
        } else if (token >= span.first_position / RATIO * RATIO + RATIO) {
            let at = frontier + slot * width + channel;
            features[s] = Feature(stored(at), stored(at + RATIO * width));
        } else {
            let at = frontier + 2u * RATIO * width + slot * c.dim + d;
            features[s] = Feature(stored(at), stored(at + RATIO * c.dim));
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
fn run_window(c: Compressor, span: Span, frontier: u32, position: u32, d: u32) -> Running {
    var r = Running(NEVER, 0.0, 0.0);
    var start = position / RATIO * RATIO;
    if (start < span.first_position) {
        r = Running(stored(frontier + d), stored(frontier + c.dim + d), stored(frontier + 2u * c.dim + d));
        start = span.first_position;
    }
    for (var token = start; token <= position; token += 1u) {
        let f = batch_feature(c, span, token, d);
        let most = max(r.most, f.gate);
        let before = exp(r.most - most);
        let now = exp(f.gate - most);
        r = Running(most, fma(r.sum, before, now), fma(r.weighted, before, now * f.value));
    }
    return r;
}
