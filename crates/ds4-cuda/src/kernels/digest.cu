// What sampling needs of rows of logits: the likeliest token, weights summed in blocks, and the tokens near the likeliest. The
// definition, whose bits these kernels give, is `ds4_model::logits::Digest`.
#include "common.cuh"

constexpr u32 kSlices = 32, kBlock = 256, kLanes = 16, kMostBanned = 8;

struct DigestRequest {
    u32 row;
    /// Whether more than the likeliest token is wanted.
    u32 draw;
    float per_temperature, below;
    u32 banned[kMostBanned];
};

struct DigestParams {
    u64 logits, requests;
    /// Largest of each slice, [request][kSlices]: the logit in order of size, the token's complement below it.
    u64 keys;
    /// Weights of each block of logits, float64, and how many of its tokens are near the likeliest: [request][block].
    u64 sums, counts;
    /// How many tokens are near the likeliest, [request], and which: token and logit, [request][most].
    u64 found, candidates;
    u32 n_vocab, blocks, most, pad;
};

/// A logit as sampling sees it: NaN as -∞, +∞ as the largest number.
DS4_DEVICE float seen(const DigestRequest &request, const float *row, u32 token) {
    float logit = row[token];
    bool banned = false;
    for (u32 i = 0; i < kMostBanned; i++) banned |= request.banned[i] == token;
    if (banned || logit != logit) return -infinity();
    return fminf(logit, as_float(0x7F7FFFFFu));
}

DS4_DEVICE const float *row_of(const DigestParams &p, const DigestRequest &request) {
    return ptr<const float>(p.logits) + u64(request.row) * p.n_vocab;
}

/// The larger the logit, the larger the key; of equal logits (0 and -0 are), the lower the token. 0 for -∞.
DS4_DEVICE u64 key_of(float logit, u32 token) {
    if (logit == -infinity()) return 0;
    u32 bits = as_bits(logit + 0.0f);
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return u64(bits) << 32 | u32(~token);
}

DS4_DEVICE u64 largest_of_warp(u64 key) {
    for (int mask = 16; mask > 0; mask /= 2) {
        u64 other = shuffle_xor(key, mask);
        if (other > key) key = other;
    }
    return key;
}

/// grid: (kSlices, requests).
DS4_KERNEL(digest_largest, 256, 4, DigestParams) {
    __shared__ u64 keys[8];
    const DigestRequest request = ptr<const DigestRequest>(p.requests)[blockIdx.y];
    const float *row = row_of(p, request);
    u32 length = div_up(p.n_vocab, kSlices), first = blockIdx.x * length, end = min_u(first + length, p.n_vocab);
    u64 key = 0;
    for (u32 token = first + threadIdx.x; token < end; token += 256) {
        u64 other = key_of(seen(request, row, token), token);
        if (other > key) key = other;
    }
    key = largest_of_warp(key);
    if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = key;
    sync_block();
    if (threadIdx.x != 0) return;
    for (u32 i = 1; i < 8; i++)
        if (keys[i] > key) key = keys[i];
    ptr<u64>(p.keys)[blockIdx.y * kSlices + blockIdx.x] = key;
}

/// The largest logit of a request's row; -∞ if there is none. Every warp finds it for itself.
DS4_DEVICE float largest_logit(const DigestParams &p, u32 request) {
    u64 key = largest_of_warp(ptr<const u64>(p.keys)[request * kSlices + threadIdx.x % 32]);
    if (key == 0) return -infinity();
    u32 bits = u32(key >> 32);
    return as_float(bits ^ (bits >> 31 ? 0x80000000u : 0xFFFFFFFFu));
}

/// e^x for x ≤ 0, 0 below -87: `ds4_model::logits::softmax`, whose order of operations this is.
DS4_DEVICE float weight_of(float x) {
    constexpr float kLowest = -87.0f, kRound = 12582912.0f, kHigh = 0.6933594f, kLow = -2.1219444e-4f;
    float inside = x > kLowest ? x : kLowest;
    float shifted = inside * 1.44269504f + kRound;
    float n = shifted - kRound;
    float r = (inside - n * kHigh) - n * kLow;
    float power = 1.0f / 5040.0f;
    power = power * r + 1.0f / 720.0f;
    power = power * r + 1.0f / 120.0f;
    power = power * r + 1.0f / 24.0f;
    power = power * r + 1.0f / 6.0f;
    power = power * r + 0.5f;
    power = power * r + 1.0f;
    power = power * r + 1.0f;
    float scale = as_float((as_bits(shifted) << 23) + 0x3F800000u);
    return x > kLowest ? power * scale : 0.0f;
}

DS4_DEVICE float lowest_logit(float largest, const DigestRequest &request) {
    return fmaxf(largest - request.below, -as_float(0x7F7FFFFFu));
}

/// Weights of a block of logits, lane by lane, and the number of tokens near the likeliest. grid: (blocks, requests).
DS4_KERNEL(digest_blocks, 256, 4, DigestParams) {
    __shared__ float weights[kBlock], lanes[kLanes];
    __shared__ u32 near[8];
    const DigestRequest request = ptr<const DigestRequest>(p.requests)[blockIdx.y];
    float largest = largest_logit(p, blockIdx.y);
    if (!request.draw || largest == -infinity()) return;
    u32 token = blockIdx.x * kBlock + threadIdx.x, length = min_u(kBlock, p.n_vocab - blockIdx.x * kBlock);
    bool inside = threadIdx.x < length;
    float logit = inside ? seen(request, row_of(p, request), token) : -infinity();
    weights[threadIdx.x] = weight_of((logit - largest) * request.per_temperature);
    int votes = count_bits(warp_votes(inside && logit >= lowest_logit(largest, request)));
    if (threadIdx.x % 32 == 0) near[threadIdx.x / 32] = u32(votes);
    sync_block();
    u32 whole = length / kLanes;
    if (threadIdx.x < kLanes) {
        float sum = 0.0f;
        for (u32 i = 0; i < whole; i++) sum += weights[i * kLanes + threadIdx.x];
        lanes[threadIdx.x] = sum;
    }
    sync_block();
    if (threadIdx.x != 0) return;
    double sum = 0.0;
    for (u32 i = 0; i < kLanes; i++) sum += double(lanes[i]);
    for (u32 i = whole * kLanes; i < length; i++) sum += double(weights[i]);
    u32 count = 0;
    for (u32 i = 0; i < 8; i++) count += near[i];
    u32 at = blockIdx.y * p.blocks + blockIdx.x;
    ptr<double>(p.sums)[at] = sum;
    ptr<u32>(p.counts)[at] = count;
}

/// Lists the tokens near the likeliest, if they are not too many. grid: requests.
DS4_KERNEL(digest_candidates, 256, 4, DigestParams) {
    __shared__ u32 sums[8];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const DigestRequest request = ptr<const DigestRequest>(p.requests)[blockIdx.x];
    float largest = largest_logit(p, blockIdx.x);
    if (!request.draw || largest == -infinity()) {
        if (threadIdx.x == 0) ptr<u32>(p.found)[blockIdx.x] = 0;
        return;
    }
    const u32 *counts = ptr<const u32>(p.counts) + blockIdx.x * p.blocks;
    // Each warp takes a run of blocks, behind the candidates of the runs before.
    u32 run = div_up(p.blocks, 8), first = min_u(warp * run, p.blocks), end = min_u(first + run, p.blocks), mine = 0;
    for (u32 i = first + lane; i < end; i += 32) mine += counts[i];
    for (int mask = 16; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
    if (lane == 0) sums[warp] = mine;
    sync_block();
    u32 place = 0, all = 0;
    for (u32 i = 0; i < 8; i++) {
        if (i < warp) place += sums[i];
        all += sums[i];
    }
    if (threadIdx.x == 0) ptr<u32>(p.found)[blockIdx.x] = all;
    if (all > p.most) return;
    const float *row = row_of(p, request);
    float lowest = lowest_logit(largest, request);
    uint2 *to = ptr<uint2>(p.candidates) + u64(blockIdx.x) * p.most;
    for (u32 block = first; block < end; block++) {
        if (counts[block] == 0) continue;
        for (u32 token = block * kBlock + lane, last = token - lane + kBlock; token - lane < last; token += 32) {
            float logit = token < p.n_vocab ? seen(request, row, token) : -infinity();
            bool is_near = token < p.n_vocab && logit >= lowest;
            u32 votes = warp_votes(is_near);
            if (is_near) to[place + u32(count_bits(votes & ((1u << lane) - 1)))] = {token, as_bits(logit)};
            place += u32(count_bits(votes));
        }
    }
}
