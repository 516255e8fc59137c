// Indexer queries: rotation; and unless EXACT the Hadamard transform and E2M1 rounding, kept as float32 and as doubled int8 codes with
// a scale per 32. With FINAL the queries are final already and only their codes are made. grid: (indexer heads, rows).

struct Params {
    kind: u32,
    kinds: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> query: array<f32>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;
@group(0) @binding(4) var<storage, read_write> code_scales: array<f32>;

const GROUPS: u32 = DIM / 32u;

var<workgroup> values: array<f32, DIM>;
var<workgroup> scales: array<f32, GROUPS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) block: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let head = block.y * IDX_HEADS + block.x;
    for (var i = t; i < DIM / 2u; i += WG) {
        let a = query[head * DIM + 2u * i];
        let b = query[head * DIM + 2u * i + 1u];
        var turn = vec2<f32>(1.0, 0.0);
        if (!FINAL && 2u * i >= DIM - ROPE) {
            turn = angles[(block.y * p.kinds + p.kind) * (ROPE / 2u) + i - (DIM - ROPE) / 2u];
        }
        values[2u * i] = fma(a, turn.x, -(b * turn.y));
        values[2u * i + 1u] = fma(a, turn.y, b * turn.x);
    }
    workgroupBarrier();
    if (EXACT) {
        for (var i = t; i < DIM; i += WG) {
            query[head * DIM + i] = values[i];
        }
        return;
    }
    if (!FINAL) {
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
        code_scales[head * GROUPS + t] = scales[t];
    }
    workgroupBarrier();
    for (var i = t; i < DIM / 4u; i += WG) {
        let scale = scales[i / 8u];
        var word = vec4<i32>();
        for (var k = 0u; k < 4u; k += 1u) {
            word[k] = e2m1_doubled(e2m1_encode(over_pow2(values[4u * i + k], scale)));
            query[head * DIM + 4u * i + k] = f32(word[k]) * 0.5 * scale;
        }
        codes[head * (DIM / 4u) + i] = pack4xI8(word);
    }
}
