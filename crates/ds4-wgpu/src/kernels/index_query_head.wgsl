// Rotation of one of the indexer's queries, and unless EXACT the Hadamard transform and E2M1 rounding, kept as float32 and as doubled
// int8 codes with a scale per 32.

const GROUPS: u32 = DIM / 32u;

var<workgroup> values: array<f32, DIM>;
var<workgroup> scales: array<f32, GROUPS>;

/// Makes the indexer's query `number` of a row; if it is `done` already, only its codes. All invocations call it.
fn make_index_query(row: u32, number: u32, t: u32, done: bool) {
    let head = row * IDX_HEADS + number;
    for (var i = t; i < DIM / 2u; i += WG) {
        let a = index_query[head * DIM + 2u * i];
        let b = index_query[head * DIM + 2u * i + 1u];
        var turn = vec2<f32>(1.0, 0.0);
        if (!done && 2u * i >= DIM - ROPE) {
            turn = angles[(row * p.kinds + p.kind) * (ROPE / 2u) + i - (DIM - ROPE) / 2u];
        }
        values[2u * i] = fma(a, turn.x, -(b * turn.y));
        values[2u * i + 1u] = fma(a, turn.y, b * turn.x);
    }
    workgroupBarrier();
    if (EXACT) {
        for (var i = t; i < DIM; i += WG) {
            index_query[head * DIM + i] = values[i];
        }
        return;
    }
    if (!done) {
        for (var half = 1u; half < DIM; half *= 2u) {
            for (var i = t; i < DIM / 2u; i += WG) {
                let low = i / half * 2u * half + i % half;
                let a = values[low];
                let b = values[low + half];
                values[low] = a + b;
                values[low + half] = a - b;
            }
            workgroupBarrier();
        }
        for (var i = t; i < DIM; i += WG) {
            values[i] *= HADAMARD_NORM;
        }
        workgroupBarrier();
    }
    if (t < GROUPS) {
        // Six times the smallest normal number.
        var largest = 7.0529664e-38;
        for (var i = 0u; i < 32u; i += 1u) {
            largest = max(largest, abs(values[t * 32u + i]));
        }
        // Values that were rounded before may get a smaller power of two than then; they lie on its grid as well.
        scales[t] = pow2_at_least(largest * (1.0 / 6.0));
        codes[p.scales_at + head * GROUPS + t] = bitcast<u32>(scales[t]);
    }
    workgroupBarrier();
    for (var i = t; i < DIM / 4u; i += WG) {
        let scale = scales[i / 8u];
        var word = vec4<i32>();
        for (var k = 0u; k < 4u; k += 1u) {
            word[k] = e2m1_doubled(e2m1_encode(over_pow2(values[4u * i + k], scale)));
            index_query[head * DIM + 4u * i + k] = f32(word[k]) * 0.5 * scale;
        }
        codes[head * (DIM / 4u) + i] = pack4xI8(word);
    }
}
