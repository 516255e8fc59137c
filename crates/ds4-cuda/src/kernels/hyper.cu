// Hyper-connections: four residual streams, merged after a sublayer and mixed before the next; and the head's collapse.
//
// `hc_project` cuts the streams into slices of 64 columns: a block merges its slice and multiplies it with the projection.
// `hc_finish` adds the slices up in order and makes the sublayer's input.
#include "hyper.cuh"

/// grid: (n_embd / 64, rows / rows_per_block); 256 threads: one per stream and column.
DS4_KERNEL_EARLY(hc_project, 256, 2, HyperProjectParams) {
    __shared__ float old[kStreams * kSlice], merged[kStreams * kSlice], part[8 * 32];
    u32 t = threadIdx.x, stream = t / kSlice, column = blockIdx.x * kSlice + t % kSlice;
    u32 output = t % 32, piece = t / 32;
    float w[32];
    if (p.project_too) {
        u64 at = u64(output) * kStreams * p.n_embd + piece / 2 * p.n_embd + blockIdx.x * kSlice + piece % 2 * 32;
        if (output >= p.outputs) {
            for (int i = 0; i < 32; i++) w[i] = 0.0f;
        } else if (p.half_weights) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint4 v = load<uint4>(ptr<const u16>(p.project) + at + i * 8);
                u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    w[i * 8 + 2 * k] = half_to_float(u16(words[k]));
                    w[i * 8 + 2 * k + 1] = half_to_float(u16(words[k] >> 16));
                }
            }
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float4 v = load<float4>(ptr<const float>(p.project) + at + i * 4);
                w[i * 4] = v.x, w[i * 4 + 1] = v.y, w[i * 4 + 2] = v.z, w[i * 4 + 3] = v.w;
            }
        }
    }
    wait_for_inputs();
    u32 begin = blockIdx.y * p.rows_per_block, last = min_u(begin + p.rows_per_block, p.rows);
    // The next row's values are on their way while this one's are used.
    float v_next = 0.0f, y_next = 0.0f, comb_next[kStreams] = {}, post_next = 0.0f;
    auto fetch = [&](u32 row) {
        u32 from = p.row_list == 0 ? row : ptr<const u32>(p.row_list)[row];
        v_next = ptr<const float>(p.streams)[(u64(from) * kStreams + stream) * p.n_embd + column];
        if (!p.merge) return;
        const float *y = ptr<const float>(p.output) + u64(row) * p.slots * p.n_embd + column;
        y_next = y[0];
        for (u32 s = 1; s < p.slots; s++) y_next += y[u64(s) * p.n_embd];
        const float *comb = ptr<const float>(p.comb) + row * kStreams * kStreams + stream;
#pragma unroll
        for (int j = 0; j < kStreams; j++) comb_next[j] = comb[j * kStreams];
        post_next = ptr<const float>(p.post)[row * kStreams + stream];
    };
    fetch(begin);
    mark(2);
    for (u32 row = begin; row < last; row++) {
        float v = v_next, y = y_next, comb[kStreams] = {comb_next[0], comb_next[1], comb_next[2], comb_next[3]}, post = post_next;
        if (row + 1 < last) fetch(row + 1);
        sync_block();
        old[t] = v;
        sync_block();
        if (p.merge) {
            float mixed = 0.0f;
#pragma unroll
            for (int j = 0; j < kStreams; j++) mixed = fmaf(comb[j], old[j * kSlice + t % kSlice], mixed);
            v = fmaf(post, y, mixed);
            // Only the head has a list of rows, and it does not merge.
            ptr<float>(p.streams)[(u64(row) * kStreams + stream) * p.n_embd + column] = v;
        }
        if (!p.project_too) continue;
        merged[t] = v;
        sync_block();
        const float *x = merged + piece * 32;
        float sum = 0.0f;
        if (output == kSquares) {
            for (int i = 0; i < 32; i++) sum = fmaf(x[i], x[i], sum);
        } else if (output >= kPairs && output < kPairs + 6) {
            // An eighth of the slice of a pair of streams.
            u32 pair = output - kPairs, one = pair < 3 ? 0 : pair < 5 ? 1 : 2, two = pair < 3 ? pair + 1 : pair < 5 ? pair - 1 : 3;
            const float *a = merged + one * kSlice + piece * 8, *b = merged + two * kSlice + piece * 8;
            for (int i = 0; i < 8; i++) sum = fmaf(a[i], b[i], sum);
        } else {
            for (int i = 0; i < 32; i++) sum = fmaf(w[i], x[i], sum);
        }
        part[piece * 32 + output] = sum;
        sync_block();
        float *sums = ptr<float>(p.sums) + (u64(row) * gridDim.x + blockIdx.x) * kSums;
        if (t < 32) {
            for (int i = 1; i < 8; i++) sum += part[i * 32 + t];
            sums[t] = sum;
        } else if (t < 32 + kStreams) {
            u32 k = t - 32;
            sums[kOwn + k] = part[2 * k * 32 + kSquares] + part[(2 * k + 1) * 32 + kSquares];
        }
    }
}

/// grid: (rows, blocks that share the columns of the sublayer's input, and one more for the weights of the merge, which the head does
/// not have). 256 threads.
DS4_KERNEL(hc_finish, 256, 4, HyperFinishParams) {
    __shared__ float part[kParts * kSums], mix[kSums];
    u32 row = blockIdx.x, t = threadIdx.x, column_blocks = gridDim.y - (p.head ? 0 : 1);
    bool is_merge = blockIdx.y == column_blocks;
    u32 from = p.row_list == 0 ? row : ptr<const u32>(p.row_list)[row];
    const float *streams = ptr<const float>(p.streams) + u64(from) * kStreams * p.n_embd;
    const float *weight = ptr<const float>(p.norm);
    float next[kStreams] = {}, scale_next = 0.0f;
    auto fetch = [&](u32 i) {
        if (is_merge || i >= p.n_embd) return;
        scale_next = weight[i];
#pragma unroll
        for (int k = 0; k < kStreams; k++) next[k] = streams[k * p.n_embd + i];
    };
    fetch(blockIdx.y * 256 + t);
    add_parts(ptr<const float>(p.sums) + u64(row) * p.slices * kSums, p.slices, part);
    if (t < kSums) add_mix(part, mix, t);
    sync_block();
    float factor = mix_factor(p, mix);
    if (is_merge) {
        if (t < kStreams) ptr<float>(p.post)[row * kStreams + t] = merge_weight(p, mix, factor, t);
        if (t == 32) merge_matrix(p, mix, factor, row);
        return;
    }
    float give[kStreams];
    float norm = mix_weights(p, mix, factor, give);
    float *input = ptr<float>(p.x.f) + u64(row) * p.x.stride;
#pragma unroll 1
    for (u32 i = blockIdx.y * 256 + t; i < p.x.blocks * 256; i += column_blocks * 256) {
        float mixed = 0.0f;
#pragma unroll
        for (int k = 0; k < kStreams; k++) mixed = fmaf(give[k], next[k], mixed);
        float v = i < p.n_embd ? mixed * norm * scale_next : 0.0f;
        fetch(i + column_blocks * 256);
        if (i < p.n_embd) input[i] = v;
        emit_forms(p.x, row, i, v, p.integers, p.halves);
    }
}
