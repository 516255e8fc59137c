// Attention of a batch of one row over packed keys: a chunk for 16 heads per block of 16 warps, which has brought and decoded the keys of
// earlier batches when the queries come, and finishes these itself. Rows are copied as they are stored, all at once, and decoded from
// shared memory. Sums as in `attend_packed`, in the same order. Included by
// attention.cu.
#pragma once

struct AttendOneParams {
    AttendParams attend;
    /// Queries as they come from their projection.
    u64 query;
    float eps;
    u32 pad;
};

/// Most chunks: a lane has one when they are merged.
constexpr u32 kMostMerged = 32;
/// Halves from one head's query to the next: eight heads' 16 bytes at the same place lie in different banks.
constexpr int kQueryHalves = kMostDim + 32;

/// Most bytes of a stored row.
constexpr u32 kRawRow = 592;
/// Words from one head's scores, and from one head's weights, to the next: what eight heads have at the same place lies in different banks.
constexpr int kScoreWords = 64 + 8, kWeightWords = 32 + 4;

struct OneMemory {
    u32 keys[32 * kPairWords];
    u16 query[kHeads * kQueryHalves];
    float2 scores[4][kHeads][kScoreWords / 2];
    u32 weights[kHeads][kWeightWords];
    u8 raw[64 * kRawRow];
};

/// What a row attends to.
struct RowKeys {
    u32 first, window, compressed;
    /// Whether the indexer chooses the compressed ones.
    bool chooses;
};

DS4_DEVICE RowKeys keys_of(const AttendParams &p, u32 position) {
    u32 first = position + 1 > p.format.window ? position + 1 - p.format.window : 0;
    u32 visible = p.place.ratio == 0 ? 0 : (position + 1) / p.place.ratio;
    bool chooses = p.selects != 0 && visible > p.top_k;
    return {first, position + 1 - first, chooses ? p.top_k : visible, chooses};
}

/// Decodes keys 2 `pair` and the next for which `wanted` says so, as `stage_packed` does.
template <u32 DIM, class Wanted>
DS4_DEVICE void decode_pairs(OneMemory &m, const CacheFormat &f, u32 count, Wanted &&wanted) {
    constexpr u32 quads = DIM / 4;
    u32 total = div_up(count, 2) * quads;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < total; i += 512) {
        u32 pair = i / quads, channel = i % quads * 4;
        if (!wanted(pair)) continue;
        const u8 *row = m.raw + pair * 2 * kRawRow;
        PackedChannels c0 = load_packed(f, row, channel), c1 = {{0, 0}, 0};
        if (pair * 2 + 1 < count) c1 = load_packed(f, row + kRawRow, channel);
        u32 a0, a1, b0, b1;
        unpack(f, c0, channel, a0, a1), unpack(f, c1, channel, b0, b1);
        uint4 v = {byte_perm(a0, b0, 0x5410), byte_perm(a0, b0, 0x7632), byte_perm(a1, b1, 0x5410), byte_perm(a1, b1, 0x7632)};
        *reinterpret_cast<uint4 *>(&m.keys[pair * kPairWords + channel]) = v;
    }
}

/// The query of one head, finished as `attention_head` does it, as float16. A warp's.
template <u32 DIM>
DS4_DEVICE void stage_query(OneMemory &m, const AttendOneParams &p, u32 head, u32 slot) {
    const AttendParams &a = p.attend;
    u32 lane = threadIdx.x % 32, tail = DIM - a.format.rope;
    const float2 *q = ptr<const float2>(p.query) + u64(head) * DIM / 2;
    const float2 *angles = ptr<const float2>(a.angles) + a.kind * a.pairs;
    constexpr int kPieces = DIM / 64;
    float2 v[kPieces], angle[kPieces];
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kPieces; j++) {
        u32 channel = j * 64 + lane * 2;
        v[j] = q[j * 32 + lane];
        angle[j] = {1.0f, 0.0f};
        if (channel >= tail) angle[j] = angles[(channel - tail) / 2];
    }
#pragma unroll
    for (int j = 0; j < kPieces; j++) sum = fmaf(v[j].x, v[j].x, sum), sum = fmaf(v[j].y, v[j].y, sum);
    float scale = 1.0f / sqrtf(warp_sum(sum) / float(DIM) + p.eps);
#pragma unroll
    for (int j = 0; j < kPieces; j++) {
        u32 channel = j * 64 + lane * 2;
        float2 r = {v[j].x * scale, v[j].y * scale};
        if (channel >= tail) r = {r.x * angle[j].x - r.y * angle[j].y, r.x * angle[j].y + r.y * angle[j].x};
        *reinterpret_cast<u32 *>(&m.query[slot * kQueryHalves + channel]) = pack_halves(r.x, r.y);
    }
}

/// As `chunk_scores`, with warps 8 to 15 taking the second half of the keys.
template <u32 DIM>
DS4_DEVICE void one_scores(OneMemory &m) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, half = warp / 8, piece = warp % 8;
    u32 selector = g % 2 ? 0x7632u : 0x5410u;
    float acc[4][4] = {};
#pragma unroll
    for (u32 j = 0; j < (DIM + 255) / 256; j++) {
        u32 at = j * 256 + piece * 32 + t * 8;
        if (DIM % 256 != 0 && at >= DIM) break;
        uint4 q0 = load<uint4>(&m.query[g * kQueryHalves + at]), q1 = load<uint4>(&m.query[(g + 8) * kQueryHalves + at]);
#pragma unroll
        for (int o = 0; o < 4; o++) {
            u32 from = ((half * 4 + o) * 4 + g / 2) * kPairWords + at;
#pragma unroll
            for (int s = 0; s < 2; s++) {
                uint4 k = *reinterpret_cast<const uint4 *>(&m.keys[from + s * 4]);
                u32 b0 = byte_perm(k.x, k.y, selector), b1 = byte_perm(k.z, k.w, selector);
                mma_f16(acc[o], s ? q0.z : q0.x, s ? q1.z : q1.x, s ? q0.w : q0.y, s ? q1.w : q1.y, b0, b1);
            }
        }
    }
    float2(&part)[kHeads][kScoreWords / 2] = m.scores[piece % 4];
    for (int turn = 1; turn >= 0; turn--) {
        if (int(piece / 4) == turn) {
#pragma unroll
            for (int o = 0; o < 4; o++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float2 &to = part[g + i * 8][(half * 4 + o) * 4 + t];
                    float2 v = {acc[o][2 * i], acc[o][2 * i + 1]};
                    if (turn == 0) v = {v.x + to.x, v.y + to.y};
                    to = v;
                }
        }
        sync_block();
    }
}

/// Maximum, weights and their sum of a warp's head; as in `chunk_softmax`.
DS4_DEVICE void one_softmax(OneMemory &m, float scale, u32 count, float &most, float &sum) {
    u32 h = threadIdx.x / 32, lane = threadIdx.x % 32;
    float s[2] = {-infinity(), -infinity()};
    float2 score = m.scores[0][h][lane];
#pragma unroll
    for (int k = 1; k < 4; k++) {
        float2 more = m.scores[k][h][lane];
        score = {score.x + more.x, score.y + more.y};
    }
    if (2 * lane < count) s[0] = score.x * scale;
    if (2 * lane + 1 < count) s[1] = score.y * scale;
    most = warp_max(fmaxf(s[0], s[1]));
    float w0 = expf(s[0] - most), w1 = expf(s[1] - most);
    sum = warp_sum(w0 + w1);
    m.weights[h][lane] = pack_halves(w0, w1);
}

template <u32 DIM>
DS4_DEVICE void attend_one(const AttendOneParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    OneMemory &m = *reinterpret_cast<OneMemory *>(memory);
    const AttendParams &a = p.attend;
    u32 head = blockIdx.y * kHeads, chunk = blockIdx.x;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Written before the batch began, as the rows of earlier batches were.
    RowInfo info = *ptr<const RowInfo>(a.rows);
    Span span = ptr<const Span>(a.spans)[info.span];
    RowKeys keys = keys_of(a, info.position);
    u32 all = keys.window + keys.compressed;
    if (chunk * 64 >= all) return;
    u32 count = min_u(64, all - chunk * 64);
    // Keys before this one are there: the window's without the row itself, and compressed rows of windows that had ended, unless the
    // indexer has to choose first.
    u32 older = keys.window - 1, ended = a.place.ratio == 0 || keys.chooses ? 0 : span.first_position / a.place.ratio;
    auto is_early = [&](u32 k) { return k < older || (k >= keys.window && k - keys.window < ended); };
    auto pair_is_early = [&](u32 pair) {
        u32 k = chunk * 64 + pair * 2;
        return is_early(k) && (pair * 2 + 1 >= count || is_early(k + 1));
    };
    // A warp has every sixteenth key; each of four lanes finds one of them.
    auto copy_keys = [&](bool early) {
        u32 k = warp + lane % 4 * 16;
        u64 address = 0;
        if (k < count && is_early(chunk * 64 + k) == early)
            address = reinterpret_cast<u64>(
                key_address(a, span, 0, keys.first, keys.window, keys.chooses ? keys.compressed : ~0u, chunk * 64 + k));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u64 from = shuffle(address, j);
            if (from == 0) continue;
            for (u32 at = lane * 16; at < a.format.kv_stride; at += 512)
                copy_stream(m.raw + (warp + j * 16) * kRawRow + at, ptr<const u8>(from + at));
        }
    };
    copy_keys(true);
    // Keys that are none contribute nothing.
    for (u32 i = div_up(count, 2) * kPairWords + threadIdx.x; i < 32 * kPairWords; i += 512) m.keys[i] = 0;
    copies_done();
    sync_block();
    decode_pairs<DIM>(m, a.format, count, pair_is_early);
    wait_for_inputs();
    // The window's last key, the last compressed one, or all that were chosen.
    u32 end = chunk * 64 + count;
    bool has_late = (end >= keys.window && chunk * 64 < keys.window) || (end > keys.window && (keys.chooses || end > keys.window + ended));
    if (has_late) copy_keys(false);
    stage_query<DIM>(m, p, min_u(head + warp, a.heads - 1), warp);
    if (has_late) {
        copies_done();
        sync_block();
        decode_pairs<DIM>(m, a.format, count, [&](u32 pair) { return !pair_is_early(pair); });
    }
    sync_block();
    mark(2);
    one_scores<DIM>(m);
    mark(3);
    float most, sum;
    one_softmax(m, a.scale, count, most, sum);
    if (lane == 0 && head + warp < a.heads) {
        u64 at = u64(head + warp) * a.most_chunks + chunk;
        ptr<float>(a.part_max)[at] = most, ptr<float>(a.part_sum)[at] = sum;
    }
    sync_block();
    mark(4);
    // A warp has a sixteenth of the channels.
    constexpr int kOctets = DIM / 128;
    u32 channel = warp * (DIM / 16);
    float out[kOctets][4] = {};
#pragma unroll
    for (int s = 0; s < 4; s++) {
        u32 w0 = m.weights[g][s * 8 + t], w1 = m.weights[g + 8][s * 8 + t], w2 = m.weights[g][s * 8 + 4 + t], w3 = m.weights[g + 8][s * 8 + 4 + t];
#pragma unroll
        for (int n = 0; n < kOctets; n++) {
            u32 at = (s * 8 + t) * kPairWords + channel + n * 8 + g;
            mma_f16(out[n], w0, w1, w2, w3, m.keys[at], m.keys[at + 4 * kPairWords]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 h = head + g + i * 8;
        if (h >= a.heads) continue;
        float *to = ptr<float>(a.part_out) + (u64(h) * a.most_chunks + chunk) * DIM + channel + 2 * t;
#pragma unroll
        for (int n = 0; n < kOctets; n++) *reinterpret_cast<float2 *>(to + n * 8) = {out[n][2 * i], out[n][2 * i + 1]};
    }
}

/// grid: (chunks, heads / 16); 512 threads.
DS4_KERNEL_EARLY(attend_one_512, 512, 1, AttendOneParams) { attend_one<512>(p); }
DS4_KERNEL_EARLY(attend_one_128, 512, 1, AttendOneParams) { attend_one<128>(p); }

/// Merges the chunks of one head, as `attend_merge` does; at most 32. grid: (heads, parts of the channels); 128 threads with two channels
/// each.
DS4_KERNEL_EARLY(attend_merge_one, 128, 8, AttendParams) {
    u32 head = blockIdx.x, lane = threadIdx.x % 32, dim = p.format.dim, channel = (blockIdx.y * 128 + threadIdx.x) * 2;
    RowKeys keys = keys_of(p, ptr<const RowInfo>(p.rows)->position);
    u32 chunks = div_up(keys.window + keys.compressed, 64);
    u64 at = u64(head) * p.most_chunks;
    wait_for_inputs();
    const float *from = ptr<const float>(p.part_out) + at * dim + channel;
    constexpr u32 kAtOnce = 10;
    float2 v[kAtOnce];
    auto fetch = [&](u32 first) {
#pragma unroll
        for (u32 k = 0; k < kAtOnce; k++)
            if (first + k < chunks && channel < dim) v[k] = load<float2>(from + u64(first + k) * dim);
    };
    fetch(0);
    // A lane has a chunk's maximum and sum, and gets the factors with which it joins those before it.
    float most = lane < chunks ? ptr<const float>(p.part_max)[at + lane] : -infinity();
    float sum = lane < chunks ? ptr<const float>(p.part_sum)[at + lane] : 0.0f;
    float largest = most;
    for (u32 step = 1; step < 32; step *= 2) {
        float other = shuffle(largest, int(lane - step));
        if (lane >= step) largest = fmaxf(largest, other);
    }
    float run_most = shuffle(largest, int(lane - 1));
    float before = expf(run_most - largest), now = expf(most - largest), part = sum * now;
    float run_sum = shuffle(sum, 0);
    float2 run = {0.0f, 0.0f};
#pragma unroll 1
    for (u32 first = 0; first < chunks; first += kAtOnce) {
        if (first > 0) fetch(first);
#pragma unroll
        for (u32 k = 0; k < kAtOnce; k++) {
            u32 chunk = first + k;
            if (chunk >= chunks) break;
            float b = shuffle(before, int(chunk)), n = shuffle(now, int(chunk)), s = shuffle(part, int(chunk));
            if (chunk == 0) {
                run = v[k];
                continue;
            }
            run_sum = fmaf(run_sum, b, s);
            run = {merge_value(run.x, b, v[k].x, n), merge_value(run.y, b, v[k].y, n)};
        }
    }
    run_most = shuffle(largest, int(chunks - 1));
    if (channel < dim) finish_pair(p, 0, head, channel, run.x, run.y, run_most, run_sum, true);
}
