// The hyper-connections of large batches: what `hyper.cu` computes, in the same order of sums, with several rows between two barriers.
//
// `hc_project_large` merges and makes the slices' sums, `hc_weights` adds them up and makes what the row is mixed with, and
// `hc_input_large` mixes.
#include "hyper.cuh"

/// Rows between two barriers, and floats from one 32 columns of a row to the next: lanes read from different banks.
constexpr u32 kRowsTogether = 4;
constexpr u32 kPiece = 36;

struct LargeMemory {
    /// Merged values, [piece of 32 columns][column].
    float merged[2][kRowsTogether][8 * kPiece];
    float part[2][kRowsTogether][8][32];
};

/// A lane's weights of the projection: of output `output`, 32 columns of piece `piece` of the slice.
DS4_DEVICE void load_projection(const HyperProjectParams &p, u32 output, u32 piece, float (&w)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++) w[i] = 0.0f;
    if (output >= p.outputs) return;
    u64 at = u64(output) * kStreams * p.n_embd + piece / 2 * p.n_embd + blockIdx.x * kSlice + piece % 2 * 32;
    if (p.half_weights) {
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

/// Sum of the products of N neighbouring values (a multiple of 4), from zero.
template <int N>
DS4_DEVICE float dot(const float *a, const float *b) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        float4 x = load<float4>(a + i), y = load<float4>(b + i);
        sum = fmaf(x.x, y.x, sum), sum = fmaf(x.y, y.y, sum), sum = fmaf(x.z, y.z, sum), sum = fmaf(x.w, y.w, sum);
    }
    return sum;
}

/// grid: (n_embd / 64, rows / rows_per_block); 256 threads: one per column of the slice and of four rows. Batch rows are the streams' rows.
DS4_KERNEL_EARLY(hc_project_large, 256, 3, HyperProjectParams) {
    __shared__ LargeMemory m;
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32, own = t / kSlice, place = t % kSlice, column = blockIdx.x * kSlice + place;
    float w[32];
    if (p.project_too) load_projection(p, lane, warp, w);
    wait_for_inputs();
    u32 begin = blockIdx.y * p.rows_per_block, last = min_u(begin + p.rows_per_block, p.rows);
    float next[kStreams] = {}, y_next = 0.0f, post[kStreams] = {};
    float4 comb[kStreams] = {};
    // The next row's values are on their way while this one's are used.
    auto fetch = [&](u32 row) {
        if (row >= last) return;
#pragma unroll
        for (int k = 0; k < kStreams; k++) next[k] = ptr<const float>(p.streams)[(u64(row) * kStreams + k) * p.n_embd + column];
        if (!p.merge) return;
        const float *y = ptr<const float>(p.output) + u64(row) * p.slots * p.n_embd + column;
        y_next = y[0];
        for (u32 s = 1; s < p.slots; s++) y_next += y[u64(s) * p.n_embd];
        float4 v = load<float4>(ptr<const float>(p.post) + row * kStreams);
        post[0] = v.x, post[1] = v.y, post[2] = v.z, post[3] = v.w;
#pragma unroll
        for (int j = 0; j < kStreams; j++) comb[j] = load<float4>(ptr<const float>(p.comb) + (row * kStreams + j) * kStreams);
    };
    fetch(begin + own);
    u32 turn = 0;
    for (u32 first = begin; first < last; first += kRowsTogether, turn ^= 1) {
        u32 row = first + own;
        float v[kStreams];
        if (p.merge) {
#pragma unroll
            for (int k = 0; k < kStreams; k++) {
                float mixed = 0.0f;
#pragma unroll
                for (int j = 0; j < kStreams; j++)
                    mixed = fmaf(k == 0 ? comb[j].x : k == 1 ? comb[j].y : k == 2 ? comb[j].z : comb[j].w, next[j], mixed);
                v[k] = fmaf(post[k], y_next, mixed);
                if (row < last) ptr<float>(p.streams)[(u64(row) * kStreams + k) * p.n_embd + column] = v[k];
            }
        } else {
#pragma unroll
            for (int k = 0; k < kStreams; k++) v[k] = next[k];
        }
        fetch(row + kRowsTogether);
        if (!p.project_too) continue;
        auto &merged = m.merged[turn];
        auto &part = m.part[turn];
#pragma unroll
        for (int k = 0; k < kStreams; k++) merged[own][(k * 2 + place / 32) * kPiece + place % 32] = v[k];
        // What is written now was read before the barrier ahead of this one.
        sync_block();
        if (lane < kSquares) {
#pragma unroll
            for (u32 r = 0; r < kRowsTogether; r++) {
                const float *x = merged[r] + warp * kPiece;
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < 32; i += 4) {
                    float4 four = load<float4>(x + i);
                    sum = fmaf(w[i], four.x, sum), sum = fmaf(w[i + 1], four.y, sum);
                    sum = fmaf(w[i + 2], four.z, sum), sum = fmaf(w[i + 3], four.w, sum);
                }
                part[r][warp][lane] = sum;
            }
        }
        // One of the other sums per warp: of the squares, then of each pair of streams, an eighth for each lane of a row.
        u32 r = lane / 8, eighth = lane % 8;
        if (warp == 0) {
            const float *x = merged[r] + eighth * kPiece;
            part[r][eighth][kSquares] = dot<32>(x, x);
        } else if (warp < 7) {
            u32 pair = warp - 1, one = pair < 3 ? 0 : pair < 5 ? 1 : 2, two = pair < 3 ? pair + 1 : pair < 5 ? pair - 1 : 3;
            u32 at = eighth / 4 * kPiece + eighth % 4 * 8;
            part[r][eighth][kPairs + pair] = dot<8>(merged[r] + one * 2 * kPiece + at, merged[r] + two * 2 * kPiece + at);
        }
        sync_block();
        float *sums = ptr<float>(p.sums) + (u64(first) * gridDim.x + blockIdx.x) * kSums;
        if (t < kRowsTogether * 32 && first + t / 32 < last) {
            float sum = part[t / 32][0][lane];
#pragma unroll
            for (int i = 1; i < 8; i++) sum += part[t / 32][i][lane];
            sums[u64(t / 32) * gridDim.x * kSums + lane] = lane < kPairs + 6 ? sum : 0.0f;
        } else if (t >= 128 && t < 128 + kRowsTogether * kStreams && first + (t - 128) / kStreams < last) {
            u32 of = (t - 128) / kStreams, k = t % kStreams;
            sums[u64(of) * gridDim.x * kSums + kOwn + k] = part[of][2 * k][kSquares] + part[of][2 * k + 1][kSquares];
        }
    }
}

/// The weights of a row's mixing and of the merge after the sublayer. The former and the norm stay for `hc_input_large` in place of the
/// row's first sums. grid: rows; a warp.
DS4_KERNEL(hc_weights, 32, 16, HyperFinishParams) {
    __shared__ float mix[kSums];
    u32 lane = threadIdx.x, row = blockIdx.x;
    float *sums = ptr<float>(p.sums) + u64(row) * p.slices * kSums;
    float parts[kParts] = {}, others[kParts] = {};
    for (u32 s = 0; s < p.slices; s += kParts) {
#pragma unroll
        for (u32 k = 0; k < kParts; k++) {
            if (s + k >= p.slices) break;
            parts[k] += sums[(s + k) * kSums + lane];
            if (lane < kStreams) others[k] += sums[(s + k) * kSums + kOwn + lane];
        }
    }
#pragma unroll
    for (u32 k = 1; k < kParts; k++) parts[0] += parts[k], others[0] += others[k];
    mix[lane] = parts[0];
    if (lane < kStreams) mix[kOwn + lane] = others[0];
    sync_warp();
    float factor = mix_factor(p, mix);
    if (lane < kStreams) ptr<float>(p.post)[row * kStreams + lane] = merge_weight(p, mix, factor, lane);
    if (lane == 0) merge_matrix(p, mix, factor, row);
    float give[kStreams];
    float norm = mix_weights(p, mix, factor, give);
    if (lane == 0) {
#pragma unroll
        for (int k = 0; k < kStreams; k++) sums[k] = give[k];
        sums[kStreams] = norm;
    }
}

/// The sublayer's input and its forms: eight columns per thread. grid: rows; 256 threads.
DS4_KERNEL(hc_input_large, 256, 4, HyperFinishParams) {
    u32 row = blockIdx.x;
    const float *left = ptr<const float>(p.sums) + u64(row) * p.slices * kSums;
    const float *streams = ptr<const float>(p.streams) + u64(row) * kStreams * p.n_embd;
    float give[kStreams], norm = left[kStreams];
#pragma unroll
    for (int k = 0; k < kStreams; k++) give[k] = left[k];
    float *input = ptr<float>(p.x.f) + u64(row) * p.x.stride;
    // Whole warps: a row has blocks of 256 columns.
    for (u32 column = threadIdx.x * 8; column < p.x.blocks * 256; column += 256 * 8) {
        float v[kStreams][8], weight[8], out[8];
        load_eight(ptr<const float>(p.norm), column, p.n_embd, weight);
#pragma unroll
        for (int k = 0; k < kStreams; k++) load_eight(streams + k * p.n_embd, column, p.n_embd, v[k]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float mixed = 0.0f;
#pragma unroll
            for (int k = 0; k < kStreams; k++) mixed = fmaf(give[k], v[k][i], mixed);
            out[i] = column + i < p.n_embd ? mixed * norm * weight[i] : 0.0f;
        }
        if (column < p.n_embd) {
            float4 *to = reinterpret_cast<float4 *>(input + column);
            to[0] = {out[0], out[1], out[2], out[3]}, to[1] = {out[4], out[5], out[6], out[7]};
        }
        emit_eight(p.x, u64(row) * p.x.blocks * 256 + column, out, p.integers, p.halves);
    }
}
