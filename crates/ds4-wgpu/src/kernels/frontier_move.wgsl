// Moves a compressor's frontier to the end of each span of the batch. grid: (channels / WG, spans).

struct Params {
    ape: u32,
    slot_words: u32,
    frontier: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> kv: array<f32>;
@group(0) @binding(4) var<storage, read> gate: array<f32>;
@group(0) @binding(5) var<storage, read_write> slots: array<u32>;

fn put(at: u32, v: f32) {
    slots[at] = bitcast<u32>(v);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let d = block.x * WG + t;
    if (d >= DIM) {
        return;
    }
    let span = span_of(block.y);
    let frontier = span.slot * p.slot_words + p.frontier;
    let end = span.first_position + span.len;
    if (!OVERLAPPING) {
        var r = Running(NEVER, 0.0, 0.0);
        if (end % RATIO != 0u) {
            r = run_window(span, frontier, end - 1u, d);
        }
        put(frontier + d, r.most);
        put(frontier + DIM + d, r.sum);
        put(frontier + 2u * DIM + d, r.weighted);
        return;
    }
    let closed = end / RATIO > span.first_position / RATIO;
    for (var s = 0u; s < RATIO; s += 1u) {
        let open = frontier + s * WIDTH;
        if (closed) {
            // The last closed window's first half, before its place is overwritten.
            let token = (end / RATIO - 1u) * RATIO + s;
            var f = Feature(stored(open + d), stored(open + RATIO * WIDTH + d));
            if (token >= span.first_position) {
                f = batch_feature(span, token, d);
            }
            let previous = frontier + 2u * RATIO * WIDTH + s * DIM + d;
            put(previous, f.value);
            put(previous + RATIO * DIM, f.gate);
        }
        let token = end / RATIO * RATIO + s;
        for (var channel = d; channel < WIDTH; channel += DIM) {
            if (token >= end) {
                put(open + channel, 0.0);
                put(open + RATIO * WIDTH + channel, NEVER);
            } else if (token >= span.first_position) {
                let f = batch_feature(span, token, channel);
                put(open + channel, f.value);
                put(open + RATIO * WIDTH + channel, f.gate);
            }
        }
    }
}
