// What the hyper-connection's kernels for small and for large batches share: how its sums are cut, its parameters, and the weights that
// come of them.
#pragma once
#include "forms.cuh"

constexpr int kStreams = 4;
constexpr int kSlice = 64;
/// Sums per slice: 24 outputs of the projection, the sum of squares, the products of different streams (01, 02, 03, 12, 13, 23), and
/// from 32 on those of each stream with itself. The products give the norm of any mixture of the streams without another look at them.
constexpr int kSums = 36;
constexpr int kSquares = 24;
constexpr int kPairs = 25;
constexpr int kOwn = 32;
/// A row's slices are added in so many parts, each in order, then the parts.
constexpr u32 kParts = 7;

struct HyperProjectParams {
    u64 streams, output, post, comb, project, sums, row_list;
    u32 n_embd, outputs, rows, half_weights, merge, project_too, rows_per_block;
    /// What is merged is the sum of so many rows of `output` per batch row, in their order.
    u32 slots;
};

struct HyperFinishParams {
    u64 streams, sums, base, scale, norm, post, comb, row_list;
    Rows x;
    u32 n_embd, slices, iterations, head;
    float eps, hc_eps;
    u32 integers, halves;
};

/// The parts of a row's sums, for the block. At least 252 threads.
DS4_DEVICE void add_parts(const float *sums, u32 slices, float *part) {
    u32 t = threadIdx.x;
    if (t < kParts * kSums) {
        const float *from = sums + t % kSums;
        float sum = 0.0f;
        // All of a part's loads before their sum.
        constexpr u32 kBatch = 10;
        for (u32 first = t / kSums; first < slices; first += kParts * kBatch) {
            float v[kBatch];
#pragma unroll
            for (u32 k = 0; k < kBatch; k++) v[k] = first + k * kParts < slices ? from[(first + k * kParts) * kSums] : 0.0f;
#pragma unroll
            for (u32 k = 0; k < kBatch; k++) sum += v[k];
        }
        part[t] = sum;
    }
    sync_block();
}

/// Sum number `i` of the row.
DS4_DEVICE void add_mix(const float *part, float *mix, u32 i) {
    float sum = part[i];
#pragma unroll
    for (u32 k = 1; k < kParts; k++) sum += part[k * kSums + i];
    mix[i] = sum;
}

/// Makes `c` nearly doubly stochastic: row softmax, then alternating normalizations that end on columns. One thread: passing elements
/// among lanes takes longer than computing.
DS4_DEVICE void sinkhorn(float (&c)[16], u32 iterations, float eps) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float most = fmaxf(fmaxf(c[j * 4], c[j * 4 + 1]), fmaxf(c[j * 4 + 2], c[j * 4 + 3]));
#pragma unroll
        for (int k = 0; k < 4; k++) c[j * 4 + k] = expf(c[j * 4 + k] - most);
        float factor = reciprocal((c[j * 4] + c[j * 4 + 1]) + (c[j * 4 + 2] + c[j * 4 + 3]));
#pragma unroll
        for (int k = 0; k < 4; k++) c[j * 4 + k] = fmaf(c[j * 4 + k], factor, eps);
    }
#pragma unroll 1
    for (u32 i = 0; i < iterations; i++) {
        if (i > 0) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float factor = reciprocal((c[j * 4] + c[j * 4 + 1]) + (c[j * 4 + 2] + c[j * 4 + 3]) + eps);
#pragma unroll
                for (int k = 0; k < 4; k++) c[j * 4 + k] *= factor;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float factor = reciprocal((c[k] + c[4 + k]) + (c[8 + k] + c[12 + k]) + eps);
#pragma unroll
            for (int j = 0; j < 4; j++) c[j * 4 + k] *= factor;
        }
    }
}

/// What sums of the projection are multiplied with: one over the root of the streams' mean square.
DS4_DEVICE float mix_factor(const HyperFinishParams &p, const float *mix) {
    return 1.0f / sqrtf(mix[kSquares] / float(kStreams * p.n_embd) + p.eps);
}

/// The weight of stream `i` in the sublayer's input; `scale` and `base` are the hyper-connection's.
DS4_DEVICE float give_weight(const HyperFinishParams &p, const float *mix, float factor, u32 i, float scale, float base) {
    return sigmoid(mix[i] * factor * scale + base) + p.hc_eps;
}

/// The norm of the streams' mixture with these weights.
DS4_DEVICE float mixed_norm(const HyperFinishParams &p, const float *mix, const float (&give)[kStreams]) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kStreams; i++) squares = fmaf(give[i] * give[i], mix[kOwn + i], squares);
    int pair = kPairs;
#pragma unroll
    for (int i = 0; i < kStreams; i++)
#pragma unroll
        for (int j = i + 1; j < kStreams; j++) squares = fmaf(2.0f * give[i] * give[j], mix[pair++], squares);
    // Streams that cancel out may leave less than nothing.
    return 1.0f / sqrtf(fmaxf(squares, 0.0f) / float(p.n_embd) + p.eps);
}

/// The weights of the streams in the sublayer's input; returns the norm of what they give.
DS4_DEVICE float mix_weights(const HyperFinishParams &p, const float *mix, float factor, float (&give)[kStreams]) {
    const float *base = ptr<const float>(p.base), *scale = ptr<const float>(p.scale);
#pragma unroll
    for (int i = 0; i < kStreams; i++) give[i] = give_weight(p, mix, factor, i, scale[0], base[i]);
    return mixed_norm(p, mix, give);
}

/// The weight with which the sublayer's output enters stream k.
DS4_DEVICE float merge_weight(const HyperFinishParams &p, const float *mix, float factor, u32 k) {
    return 2.0f * sigmoid(mix[kStreams + k] * factor * ptr<const float>(p.scale)[1] + ptr<const float>(p.base)[kStreams + k]);
}

/// How the streams are mixed when the sublayer's output enters. One thread.
DS4_DEVICE void merge_matrix(const HyperFinishParams &p, const float *mix, float factor, u32 row) {
    const float *base = ptr<const float>(p.base), *scale = ptr<const float>(p.scale);
    float c[16];
#pragma unroll
    for (int i = 0; i < 16; i++) c[i] = mix[2 * kStreams + i] * factor * scale[2] + base[2 * kStreams + i];
    sinkhorn(c, p.iterations, p.hc_eps);
    float4 *comb = ptr<float4>(p.comb) + row * 4;
#pragma unroll
    for (int j = 0; j < 4; j++) comb[j] = {c[j * 4], c[j * 4 + 1], c[j * 4 + 2], c[j * 4 + 3]};
}
