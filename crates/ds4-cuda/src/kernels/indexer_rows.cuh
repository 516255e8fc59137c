// The indexer's scores of large batches: a block has eight batch rows, one per warp, and decodes a tile of keys once for all of them.
//
// Scores are those of `score_packed`, by the same instructions on the same operands. Keys lie in shared memory row by row as float16; within
// each 32 channels channel 8 t + 2 e + k is at place 8 e + 2 t + k, so that the matrices that the hardware loads have the operands of lane t
// where the other kernel has them.
#pragma once
#include "rounding.cuh"
#include "weights.cuh"

constexpr u32 kScoreRows = 8, kScoreKeys = 64;
/// Float16s from one key to the next: lanes read from different banks.
constexpr u32 kScoreStride = 128 + 8;

struct ScoreMemory {
    u16 keys[2][kScoreKeys * kScoreStride];
    float factors[2][kScoreKeys];
    /// Of each batch row: its sequence, and the keys that it scores; 0 where it does not choose.
    u32 span[kScoreRows], visible[kScoreRows];
};

/// A group of 32 channels of a key as it is stored, and all scales of the key.
struct StoredGroup {
    u32 words[4], scales;

    DS4_MEMBER void load_from(const u8 *key, u32 group) {
#pragma unroll
        for (int t = 0; t < 4; t++) words[t] = load<u32>(key + group * 16 + t * 4);
        scales = load<u32>(key + 64);
    }
    DS4_MEMBER void store(u16 *key, u32 group) const {
        u32 factor = half_power(largest_byte(scales) - (scales >> (8 * group) & 0xFF)), v[4][4];
#pragma unroll
        for (int t = 0; t < 4; t++) {
            e2m1_halves(words[t], v[0][t], v[1][t]), e2m1_halves(words[t] >> 16, v[2][t], v[3][t]);
#pragma unroll
            for (int e = 0; e < 4; e++) v[e][t] = mul_halves(v[e][t], factor);
        }
        uint4 *to = reinterpret_cast<uint4 *>(key + group * 32);
#pragma unroll
        for (int e = 0; e < 4; e++) to[e] = {v[e][0], v[e][1], v[e][2], v[e][3]};
    }
};

/// Scores of the rows that batch rows see, where they have to choose. grid: (keys / p.keys, rows / 8); 256 threads.
DS4_KERNEL(index_scores_rows, 256, 1, IndexParams) {
    __shared__ ScoreMemory m;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, place = threadIdx.x / 4, group = threadIdx.x % 4;
    u32 number = blockIdx.y * kScoreRows + warp, row = p.first_row + min_u(number, p.count - 1), begin = blockIdx.x * p.keys;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    u32 visible = (info.position + 1) / p.place.ratio;
    if (number >= p.count || visible <= p.top_k) visible = 0;
    if (lane == 0) m.span[warp] = info.span, m.visible[warp] = visible;
    sync_block();
    u32 most = 0;
    for (u32 r = 0; r < kScoreRows; r++) most = max_u(most, m.visible[r]);
    if (most <= begin) return;
    HeadOperands heads;
    heads.load_from(p, row);
    float *scores = ptr<float>(p.scores) + u64(number) * p.score_stride + 2 * t;
    // Rows that follow each other are most often of one sequence, whose keys they share.
    for (u32 own = 0, next; own < kScoreRows; own = next) {
        u32 span = m.span[own], end = 0;
        for (next = own; next < kScoreRows && m.span[next] == span; next++) end = max_u(end, m.visible[next]);
        end = min_u(end, begin + p.keys);
        if (end <= begin) continue;
        bool mine = warp >= own && warp < next;
        const u64 *pages = ptr<const u64>(ptr<const Span>(p.spans)[span].pages);
        StoredGroup ahead;
        auto fetch = [&](u32 first) { ahead.load_from(index_row(p, pages, min_u(first + place, end - 1)), group); };
        fetch(begin);
        u32 turn = 0;
        for (u32 first = begin; first < end; first += kScoreKeys, turn ^= 1) {
            ahead.store(m.keys[turn] + place * kScoreStride, group);
            if (group == 0) m.factors[turn][place] = key_factor(ahead.scales);
            // What the other half holds is read until here.
            sync_block();
            if (first + kScoreKeys < end) fetch(first + kScoreKeys);
            if (!mine) continue;
            const u16 *from = m.keys[turn] + lane % 8 * kScoreStride + lane / 8 * 8;
#pragma unroll 2
            for (u32 o = 0; o < kScoreKeys / 8; o++) {
                u32 b[4][4];
#pragma unroll
                for (int i = 0; i < 4; i++) load_matrices(b[i], from + o * 8 * kScoreStride + i * 32);
                float even, odd;
                heads.score(b, even, odd);
                u32 key = first + o * 8 + 2 * t;
                float2 factor = load<float2>(&m.factors[turn][o * 8 + 2 * t]);
                if (g == 0 && key < visible) scores[first + o * 8] = even * factor.x;
                if (g == 0 && key + 1 < visible) scores[first + o * 8 + 1] = odd * factor.y;
            }
        }
        sync_block();
    }
}
