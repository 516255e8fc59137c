// Choice and weights of the experts of each row: the largest sqrt(softplus(score)) plus bias, in descending order, the lower number
// first among equals; or, BY_TOKEN, the token's from a table. The second workgroup of a row
// makes the merging weights (see `merge_weights.wgsl`). grid: (rows, 2).

struct Params {
    bias: u32,
    /// Index of the first token's entry in the table.
    table: u32,
    scale: f32,
    pad: u32,
    hyper: Hyper,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> logits: array<f32>;
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> weights: array<f32>;
@group(0) @binding(7) var<storage, read_write> merge: array<f32>;

const QUADS: u32 = (N_EXPERT + 3u) / 4u;

var<workgroup> scores: array<f32, N_EXPERT>;
var<workgroup> keys: array<vec4<u32>, QUADS>;
var<workgroup> chosen: array<u32, USED>;

fn softplus(x: f32) -> f32 {
    let e = exp(-abs(x));
    // ln(1 + e): a series where 1 + e would lose e's digits.
    var small = e * (1.0 - e * (0.5 - e * (0.33333334 - e * (0.25 - e * 0.2))));
    if (e > 0.04) {
        small = log(1.0 + e);
    }
    return max(x, 0.0) + small;
}

/// Unsigned integers above 0 that order like the values, NaN included; the two zeros are one.
fn key_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value + 0.0);
    return max(select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u), 1u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = block.x;
    if (block.y == 1u) {
        make_merge_weights(p.hyper, row, t);
        return;
    }
    for (var e = t; e < N_EXPERT; e += WG) {
        let score = sqrt(softplus(logits[row * N_EXPERT + e]));
        scores[e] = score;
        if (!BY_TOKEN) {
            keys[e / 4u][e % 4u] = key_of(score + vectors[p.bias + e]);
        }
    }
    // Places without an expert come after all.
    if (t >= N_EXPERT % 4u && t < 4u && N_EXPERT % 4u != 0u) {
        keys[QUADS - 1u][t] = 0u;
    }
    if (BY_TOKEN) {
        if (t < USED) {
            chosen[t] = table[p.table + rows[row].x * USED + t];
        }
    } else {
        workgroupBarrier();
        // An expert's place is the number of those that go before it.
        for (var e = t; e < N_EXPERT; e += WG) {
            let key = keys[e / 4u][e % 4u];
            var place = 0u;
            for (var other = 0u; other < QUADS; other += 1u) {
                let theirs = keys[other];
                let numbers = vec4<u32>(4u * other) + vec4<u32>(0u, 1u, 2u, 3u);
                let equal = (theirs == vec4<u32>(key)) & (numbers < vec4<u32>(e));
                let before = select(vec4<u32>(0u), vec4<u32>(1u), (theirs > vec4<u32>(key)) | equal);
                place += before.x + before.y + before.z + before.w;
            }
            if (place < USED) {
                chosen[place] = e;
            }
        }
    }
    workgroupBarrier();
    if (t == 0u) {
        var sum = 0.0;
        for (var slot = 0u; slot < USED; slot += 1u) {
            sum += scores[chosen[slot]];
        }
        let factor = p.scale / max(sum, 1.0e-20);
        for (var slot = 0u; slot < USED; slot += 1u) {
            ids[row * USED + slot] = chosen[slot];
            weights[row * USED + slot] = scores[chosen[slot]] * factor;
        }
    }
}
