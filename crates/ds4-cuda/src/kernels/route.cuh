// The choice of experts.
#pragma once
#include "expert_sort.cuh"

struct RouteParams {
    u64 scores, bias, table, rows, ids, weights;
    u32 n_expert, used;
    float scale;
    u32 pad;
};

DS4_DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

/// Of one row, in shared memory: experts' scores, and what is added to them for the choice.
struct RouteScores {
    float score[kMostExperts], bias[kMostExperts];

    /// What is added, which does not wait for the kernels ahead. With all threads of the block.
    DS4_MEMBER void load_bias(const RouteParams &p) {
        for (u32 e = threadIdx.x; e < p.n_expert; e += blockDim.x) bias[e] = p.bias == 0 ? 0.0f : ptr<const float>(p.bias)[e];
    }
    /// The scores, with all threads of the block; a barrier has to follow.
    DS4_MEMBER void load(const RouteParams &p, u32 row) {
        const float *logits = ptr<const float>(p.scores) + u64(row) * p.n_expert;
        for (u32 e = threadIdx.x; e < p.n_expert; e += blockDim.x) score[e] = sqrtf(softplus(logits[e]));
    }
    /// With one warp: the row's experts by the largest sum (the lower number first among equals), or by the token's table row. Lane k gets
    /// the k-th and its weight.
    DS4_MEMBER void choose(const RouteParams &p, u32 row, u32 &id, float &weight) const {
        if (p.n_expert <= 256) choose_of<8>(p, row, id, weight);
        else choose_of<kMostExperts / 32>(p, row, id, weight);
    }
    /// Of at most 32 * PER experts.
    template <int PER>
    DS4_MEMBER void choose_of(const RouteParams &p, u32 row, u32 &id, float &weight) const {
        u32 lane = threadIdx.x % 32, key[PER];
#pragma unroll
        for (int i = 0; i < PER; i++) {
            u32 e = i * 32 + lane;
            // 0 is no expert's.
            key[i] = e < p.n_expert ? max_u(order_key(score[e] + bias[e]), 1) : 0;
        }
        float sum = 0.0f, mine = 0.0f;
        id = 0;
        for (u32 k = 0; k < p.used; k++) {
            u32 best;
            if (p.table != 0) {
                best = ptr<const u32>(p.table)[u64(ptr<const RowInfo>(p.rows)[row].token) * p.used + k];
            } else {
                u32 value = 0, first = ~0u;
#pragma unroll
                for (int i = 0; i < PER; i++) value = max_u(value, key[i]);
                value = warp_most(value);
#pragma unroll
                for (int i = PER - 1; i >= 0; i--)
                    if (key[i] == value) first = i * 32 + lane;
                best = warp_least(first);
#pragma unroll
                for (int i = 0; i < PER; i++)
                    if (i * 32 + lane == best) key[i] = 0;
            }
            float chosen = score[best];
            sum += chosen;
            if (lane == k) mine = chosen, id = best;
        }
        weight = mine * (p.scale / fmaxf(sum, 1e-20f));
    }
};
