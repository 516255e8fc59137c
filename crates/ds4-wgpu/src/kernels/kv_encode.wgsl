// Storing a KV row from workgroup memory.

var<workgroup> row_values: array<f32, ROW_VALUES>;
var<workgroup> group_scales: array<f32, max(KV_GROUPS, 1u)>;

/// Scales of the groups; all invocations call it when `row_values` is complete.
fn kv_scales(t: u32) {
    workgroupBarrier();
    if (!EXACT && t < KV_GROUPS) {
        var largest = 1.0e-4;
        for (var i = 0u; i < 64u; i += 1u) {
            largest = max(largest, abs(row_values[t * 64u + i]));
        }
        group_scales[t] = pow2_at_least(largest * (1.0 / 448.0));
    }
    workgroupBarrier();
}

/// Word `i` of the stored row.
fn kv_word(i: u32) -> u32 {
    if (EXACT) {
        return bitcast<u32>(row_values[i]);
    }
    if (i < KV_CODES) {
        let scale = group_scales[i / 16u];
        var word = 0u;
        for (var k = 0u; k < 4u; k += 1u) {
            word |= e4m3_encode(over_pow2(row_values[4u * i + k], scale)) << (8u * k);
        }
        return word;
    }
    if (i < KV_CODES + KV_EXPONENTS) {
        var word = 0u;
        for (var k = 0u; k < 4u; k += 1u) {
            let group = (i - KV_CODES) * 4u + k;
            if (group < KV_GROUPS) {
                word |= (bitcast<u32>(group_scales[group]) >> 23u) << (8u * k);
            }
        }
        return word;
    }
    let channel = NOPE + 2u * (i - KV_CODES - KV_EXPONENTS);
    return half_encode(row_values[channel]) | (half_encode(row_values[channel + 1u]) << 16u);
}
