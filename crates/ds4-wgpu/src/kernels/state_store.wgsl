// The batch enters the sequences' slots, after attention has read what it replaces: KV rows the window rings, features the
// frontiers. grid: (batch rows, then WG channels each of the compressors, spans); rings are stored with the first span.

struct Params {
    slot_words: u32,
    window: u32,
    rows: u32,
    /// Workgroups of the first compressor.
    blocks: u32,
    first: Compressor,
    second: Compressor,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;
@group(0) @binding(4) var<storage, read> kv_stored: array<u32>;
@group(0) @binding(5) var<storage, read> projected: array<f32>;
@group(0) @binding(6) var<storage, read_write> slots: array<u32>;

fn put(at: u32, v: f32) {
    slots[at] = bitcast<u32>(v);
}

fn store_ring(row: u32, t: u32) {
    let info = rows[row];
    let span = info.z * 8u;
    let end = tables[span + 3u] + tables[span + 2u];
    if (info.y + p.window < end) {
        return;
    }
    let to = tables[span] * p.slot_words + info.y % p.window * KV_WORDS;
    for (var i = t; i < KV_WORDS; i += WG) {
        slots[to + i] = kv_stored[row * KV_WORDS + i];
    }
}

/// Moves channel `d` of a compressor's frontier to the end of span `number`.
fn move_frontier(c: Compressor, number: u32, d: u32) {
    let span = span_of(number);
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

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (block.x < p.rows) {
        if (block.y == 0u) {
            store_ring(block.x, t);
        }
        return;
    }
    let number = block.x - p.rows;
    if (number < p.blocks) {
        let d = number * WG + t;
        if (d < p.first.dim) {
            move_frontier(p.first, block.y, d);
        }
    } else {
        let d = (number - p.blocks) * WG + t;
        if (d < p.second.dim) {
            move_frontier(p.second, block.y, d);
        }
    }
}
