// Norm, rotation and rounding of a KV row, which is kept as float32 and as stored.

/// Makes row `row` of `kv` final, unless `done` says that it is, and stores it. All invocations call it.
fn store_kv_row(row: u32, t: u32, done: bool) {
    for (var i = t; i < HEAD_DIM; i += WG) {
        row_values[i] = kv[row * HEAD_DIM + i];
    }
    if (!done) {
        norm_and_rotate(t, HEAD_DIM, p.norm, (row * p.kinds + p.kind) * (ROPE / 2u), p.eps);
    }
    kv_scales(t);
    for (var i = t; i < KV_WORDS; i += WG) {
        let word = kv_word(i);
        kv_stored[row * KV_WORDS + i] = word;
        if (EXACT) {
            kv[row * HEAD_DIM + i] = bitcast<f32>(word);
        } else if (i < KV_CODES) {
            let v = e4m3_decode(word) * group_scales[i / 16u];
            let at = row * HEAD_DIM + 4u * i;
            kv[at] = v.x;
            kv[at + 1u] = v.y;
            kv[at + 2u] = v.z;
            kv[at + 3u] = v.w;
        } else if (i >= KV_CODES + KV_EXPONENTS) {
            let v = half_decode(word);
            let at = row * HEAD_DIM + NOPE + 2u * (i - KV_CODES - KV_EXPONENTS);
            kv[at] = v.x;
            kv[at + 1u] = v.y;
        }
    }
}
