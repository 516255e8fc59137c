// Attention of large batches over packed rows: a block has one batch row and up to 64 heads, so that its keys are decoded once.
//
// Sums are those of `attention.cu`, in the same order. Keys lie in shared memory row by row as float16; within each 32 channels
// channel 8 t + 2 m + e is at place 8 m + 2 t + e, so that the matrices that the hardware loads have the operands of lane t where the
// other kernels have them, and a lane's results are eight consecutive channels.
#pragma once
#include "forms.cuh"
#include "rounding.cuh"

constexpr int kRowHeads = 64;
constexpr int kChunk = 64;
constexpr int kRowThreads = 512;
/// Float16s from one key to the next, bytes of a stored row, scores and weights from one head to the next: lanes read from different
/// banks.
constexpr int kKeyHalves = kMostDim + 8;
constexpr int kMostStored = 592;
constexpr int kScoreStride = kChunk + 8;
constexpr int kWeightStride = kChunk + 8;
/// Keys whose addresses are looked up at a time.
constexpr int kAddresses = 10 * kChunk;

struct RowMemory {
    u16 keys[kChunk * kKeyHalves];
    u8 stored[kChunk * kMostStored];
    float scores[4][kRowHeads][kScoreStride];
    u16 weights[kRowHeads][kWeightStride];
    float run_most[kRowHeads], run_sum[kRowHeads], before[kRowHeads], now[kRowHeads];
    u64 address[kAddresses];
    /// What looking keys up takes: the batch row's sequence, its first key's position, keys of the window, and `chosen_rows`.
    Span span;
    u32 first, window, chosen;
};

struct AttendRowsParams {
    AttendParams attend;
    /// The output projection's input: a batch row has one row per group.
    Rows out;
    u32 integers, halves;
};

/// Begins to copy a chunk's rows as they are stored.
DS4_DEVICE void fetch_rows(RowMemory &m, const AttendParams &p, const u64 *address, u32 count) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (u32 key = warp; key < count; key += kRowThreads / 32)
        for (u32 piece = lane; piece < p.format.kv_stride / 16; piece += 32)
            copy_async<16>(m.stored + key * kMostStored + piece * 16, ptr<const u8>(address[key]) + piece * 16);
}

/// The fetched rows as float16. A key that is none contributes nothing: zero, with a weight of zero.
template <u32 DIM>
DS4_DEVICE void decode_rows(RowMemory &m, const CacheFormat &f, u32 count) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll 4
    for (u32 i = warp; i < DIM / 32 * 8; i += kRowThreads / 32) {
        u32 key = i % 8 * 8 + lane / 4, group = i / 8 * 32, channel = group + t * 8;
        const u8 *row = m.stored + key * kMostStored;
        u32 v[4] = {};
        if (key < count) {
            if (channel >= f.nope) {
                uint4 halves = load<uint4>(row + f.nope + (channel - f.nope) * 2);
                v[0] = halves.x, v[1] = halves.y, v[2] = halves.z, v[3] = halves.w;
            } else {
                uint2 codes = load<uint2>(row + channel);
                u32 scale = half_scale(row[f.nope + f.rope * 2 + channel / 64]);
                e4m3_halves(codes.x, scale, v[0], v[1]), e4m3_halves(codes.y, scale, v[2], v[3]);
            }
        }
        u32 *to = reinterpret_cast<u32 *>(m.keys + key * kKeyHalves + group) + t;
#pragma unroll
        for (int k = 0; k < 4; k++) to[k * 4] = v[k];
    }
}

/// Scores of 16 heads with all keys of the chunk over the channels of part `warp / 4`.
template <u32 DIM>
DS4_DEVICE void score_rows(RowMemory &m, const uint4 (&q)[4][2]) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tile = warp % 4, part = warp / 4;
    const u16 *from = m.keys + lane % 8 * kKeyHalves + lane / 8 * 8 + part * 32;
#pragma unroll
    for (int o = 0; o < kChunk / 8; o++) {
        float acc[2][4] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Channels of warps `part` and `part` + 4 of the kernel for 16 heads.
            u32 d = i / 2 * 128 + i % 2 * 256;
            if (d >= DIM) continue;
            u32 b[4];
            load_matrices(b, from + o * 8 * kKeyHalves + d);
            mma_f16(acc[i / 2], q[i][0].x, q[i][1].x, q[i][0].y, q[i][1].y, b[0], b[1]);
            mma_f16(acc[i / 2], q[i][0].z, q[i][1].z, q[i][0].w, q[i][1].w, b[2], b[3]);
        }
        float *to = &m.scores[part][tile * 16 + g][o * 8 + 2 * t];
        *reinterpret_cast<float2 *>(to) = {acc[0][0] + acc[1][0], acc[0][1] + acc[1][1]};
        *reinterpret_cast<float2 *>(to + 8 * kScoreStride) = {acc[0][2] + acc[1][2], acc[0][3] + acc[1][3]};
    }
}

/// Weights of four heads per warp, and how the chunk joins those before it.
DS4_DEVICE void weigh_rows(RowMemory &m, float scale, u32 count, bool is_first) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
    for (u32 h = warp * 4; h < warp * 4 + 4; h++) {
        float2 v = load<float2>(&m.scores[0][h][2 * lane]);
#pragma unroll
        for (int k = 1; k < 4; k++) {
            float2 other = load<float2>(&m.scores[k][h][2 * lane]);
            v.x += other.x, v.y += other.y;
        }
        float s0 = 2 * lane < count ? v.x * scale : -infinity(), s1 = 2 * lane + 1 < count ? v.y * scale : -infinity();
        float most = warp_max(fmaxf(s0, s1));
        float w0 = expf(s0 - most), w1 = expf(s1 - most);
        float sum = warp_sum(w0 + w1);
        *reinterpret_cast<u32 *>(&m.weights[h][2 * lane]) = pack_halves(w0, w1);
        if (lane != 0) continue;
        // Nothing is before the first: its factors leave it as it is.
        if (is_first) m.run_most[h] = most, m.run_sum[h] = sum, m.before[h] = 1.0f, m.now[h] = 1.0f;
        else merge_factors(m.run_most[h], m.run_sum[h], most, sum, m.before[h], m.now[h]);
    }
}

/// Adds the chunk's weighted keys: all heads, 32 channels per warp. run[tile][octet].
DS4_DEVICE void add_values(const RowMemory &m, float (&run)[4][4][4]) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    u32 low = lane % 16, high = lane / 16 * 8;
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
        float out[2][4][4] = {};
#pragma unroll
        for (int s = 0; s < kChunk / 16; s++) {
            u32 b[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++) load_transposed(b[n], m.keys + (s * 16 + low) * kKeyHalves + warp * 32 + n * 16 + high);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                u32 a[4];
                load_matrices(a, &m.weights[(pair * 2 + k) * 16 + low][s * 16 + high]);
#pragma unroll
                for (int n = 0; n < 4; n++) mma_f16(out[k][n], a[0], a[1], a[2], a[3], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int tile = pair * 2 + k;
            u32 h = tile * 16 + g;
            float before[2] = {m.before[h], m.before[h + 8]}, now[2] = {m.now[h], m.now[h + 8]};
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    run[tile][n][i] = merge_value(run[tile][n][i], before[i / 2], out[k][n][i], now[i / 2]);
        }
    }
}

/// Divides by the sums, rotates back, and stores the result in the forms asked for.
template <u32 DIM>
DS4_DEVICE void finish_row(const AttendRowsParams &all, RowMemory &m, u32 row, u32 head, const float (&run)[4][4][4]) {
    const AttendParams &p = all.attend;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, channel = warp * 32 + t * 8;
    if (threadIdx.x < kRowHeads) {
        u32 h = threadIdx.x;
        m.before[h] = head_factor(p, min_u(head + h, p.heads - 1), m.run_most[h], m.run_sum[h]);
    }
    sync_block();
    if (warp * 32 >= DIM) return;
    u32 groups = p.heads * DIM / all.out.cols;
#pragma unroll
    for (int tile = 0; tile < 4; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 h = tile * 16 + half * 8 + g;
            float factor = m.before[h], v[8];
#pragma unroll
            for (int n = 0; n < 4; n++) {
                float2 pair = rotate_back(p, row, channel + n * 2, run[tile][n][half * 2] * factor, run[tile][n][half * 2 + 1] * factor);
                v[2 * n] = pair.x, v[2 * n + 1] = pair.y;
            }
            bool write = head + h < p.heads;
            u32 place = min_u(head + h, p.heads - 1) * DIM + channel;
            // Where the output projection comes next, nobody reads float32.
            float4 *to = reinterpret_cast<float4 *>(ptr<float>(p.attended) + u64(row) * p.heads * DIM + place);
            if (write && p.attended != 0) to[0] = {v[0], v[1], v[2], v[3]}, to[1] = {v[4], v[5], v[6], v[7]};
            u64 at = u64(row * groups + place / all.out.cols) * all.out.blocks * 256 + place % all.out.cols;
            emit_eight(all.out, at, v, all.integers, all.halves, write);
        }
}

template <u32 DIM>
DS4_DEVICE void attend_row(const AttendRowsParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    RowMemory &m = *reinterpret_cast<RowMemory *>(memory);
    const AttendParams &a = p.attend;
    u32 row = blockIdx.x, head = blockIdx.y * kRowHeads;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 keys;
    {
        RowInfo info = ptr<const RowInfo>(a.rows)[row];
        u32 first = info.position + 1 > a.format.window ? info.position + 1 - a.format.window : 0;
        u32 window = info.position + 1 - first, chosen = !a.selects ? ~0u : ptr<const u32>(a.selected)[row];
        keys = window + (a.place.ratio == 0 ? 0 : chosen != ~0u ? chosen : (info.position + 1) / a.place.ratio);
        if (threadIdx.x == 0) m.span = ptr<const Span>(a.spans)[info.span], m.first = first, m.window = window, m.chosen = chosen;
    }
    u32 chunks = div_up(keys, kChunk);
    auto look_up = [&](u32 begin) {
        for (u32 i = threadIdx.x; i < min_u(kAddresses, keys - begin); i += kRowThreads)
            m.address[i] = reinterpret_cast<u64>(key_address(a, m.span, row, m.first, m.window, m.chosen, begin + i));
    };
    auto fetch = [&](u32 chunk) {
        fetch_rows(m, a, m.address + chunk * kChunk % kAddresses, min_u(kChunk, keys - chunk * kChunk));
    };
    sync_block();
    look_up(0);
    sync_block();
    fetch(0);
    float run[4][4][4];
#pragma unroll
    for (int i = 0; i < 64; i++) run[i / 16][i / 4 % 4][i % 4] = -0.0f;
    for (u32 chunk = 0; chunk < chunks; chunk++) {
        u32 count = min_u(kChunk, keys - chunk * kChunk);
        // Queries of the warp's heads and channels, on their way while the keys are decoded.
        uint4 q[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                u32 h = min_u(head + warp % 4 * 16 + j * 8 + g, a.heads - 1), d = warp / 4 * 32 + i / 2 * 128 + i % 2 * 256;
                if (i / 2 * 128 + i % 2 * 256 < DIM) q[i][j] = load<uint4>(ptr<const u16>(a.hi) + (u64(row) * a.heads + h) * DIM + d + t * 8);
            }
        copies_done();
        sync_block();
        decode_rows<DIM>(m, a.format, count);
        if ((chunk + 1) * kChunk % kAddresses == 0 && chunk + 1 < chunks) look_up((chunk + 1) * kChunk);
        sync_block();
        if (chunk + 1 < chunks) fetch(chunk + 1);
        score_rows<DIM>(m, q);
        sync_block();
        weigh_rows(m, a.scale, count, chunk == 0);
        sync_block();
        if (warp * 32 < DIM) add_values(m, run);
    }
    sync_block();
    finish_row<DIM>(p, m, row, head, run);
}

// By the channels of a head. grid: (rows, heads / 64); 512 threads.
DS4_KERNEL(attend_rows_128, 512, 1, AttendRowsParams) { attend_row<128>(p); }
DS4_KERNEL(attend_rows_512, 512, 1, AttendRowsParams) { attend_row<512>(p); }
