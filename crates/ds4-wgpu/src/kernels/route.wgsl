// Choice and weights of the experts of each row: the largest sqrt(softplus(score)) plus bias, in descending order, the lower number
// first among equals; or, BY_TOKEN, the token's from a table. grid: (rows).

struct Params {
    bias: u32,
    /// Index of the first token's entry in the table.
    table: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> logits: array<f32>;
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> weights: array<f32>;

var<workgroup> scores: array<f32, N_EXPERT>;
var<workgroup> keys: array<u32, N_EXPERT>;
var<workgroup> best_key: array<u32, WG>;
var<workgroup> best_expert: array<u32, WG>;
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
    for (var e = t; e < N_EXPERT; e += WG) {
        let score = sqrt(softplus(logits[row * N_EXPERT + e]));
        scores[e] = score;
        if (!BY_TOKEN) {
            keys[e] = key_of(score + vectors[p.bias + e]);
        }
    }
    if (BY_TOKEN) {
        if (t < USED) {
            chosen[t] = table[p.table + rows[row].x * USED + t];
        }
    } else {
        for (var slot = 0u; slot < USED; slot += 1u) {
            workgroupBarrier();
            var key = 0u;
            var expert = 0u;
            for (var e = t; e < N_EXPERT; e += WG) {
                if (keys[e] > key) {
                    key = keys[e];
                    expert = e;
                }
            }
            best_key[t] = key;
            best_expert[t] = expert;
            for (var step = WG / 2u; step > 0u; step /= 2u) {
                workgroupBarrier();
                if (t < step) {
                    let other = best_key[t + step];
                    let lower = best_expert[t + step] < best_expert[t];
                    if (other > best_key[t] || (other == best_key[t] && lower)) {
                        best_key[t] = other;
                        best_expert[t] = best_expert[t + step];
                    }
                }
            }
            workgroupBarrier();
            if (t == 0u) {
                chosen[slot] = best_expert[0];
                keys[best_expert[0]] = 0u;
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
