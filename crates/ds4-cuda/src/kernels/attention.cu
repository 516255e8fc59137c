// Attention of each batch row over its window and its compressed rows, with a sink.
//
// A row's keys, window first, come in chunks of 64 (32 in float32). A chunk is computed from zero: scores, softmax against the
// chunk's maximum, weighted sum of the keys. Chunks are then merged in order. Small batches give every chunk a block of its own
// and merge afterwards; large ones merge as they go, with the same operations, so that the bits are the same.
#include "rounding.cuh"

struct AttendParams {
    u64 rows, spans, hi, lo, kv_stored, selection, selected, sinks, angles, attended;
    /// Per row, head and chunk: maximum, sum, and [dim] weighted sums. Not used where chunks are merged at once.
    u64 part_max, part_sum, part_out;
    LayerPlace place;
    CacheFormat format;
    u32 heads, pairs, kind, top_k, most_chunks, split;
    float scale;
    /// Whether the indexer chooses rows where there are more than `top_k`.
    u32 selects;
};

constexpr int kHeads = 16;
constexpr int kMostDim = 512;

/// Words of a pair of keys, padded against bank conflicts.
constexpr int kPairWords = kMostDim + 8;

template <int KEYS, bool EXACT>
struct AttendMemory {
    /// Channel d of keys 2 k and 2 k + 1, as two float16; what they leave of float32 keys in `low`.
    u32 keys[KEYS / 2 * kPairWords];
    u32 low[EXACT ? KEYS / 2 * kPairWords : 1];
    float scores[4][kHeads][KEYS];
    u32 p_hi[kHeads][KEYS / 2], p_lo[kHeads][KEYS / 2];
    float most[kHeads], sum[kHeads];
    float run_most[kHeads], run_sum[kHeads], before[kHeads], now[kHeads];
    u64 address[KEYS];
};

/// Where the stored row of key number k of a batch row is.
DS4_DEVICE const u8 *key_address(const AttendParams &p, const Span &span, u32 row, u32 first, u32 window, u32 chosen, u32 k) {
    if (k < window) {
        u32 position = first + k;
        if (position >= span.first_position)
            return ptr<const u8>(p.kv_stored) + u64(span.first_row + position - span.first_position) * p.format.kv_stride;
        return ptr<const u8>(span.ring + p.place.ring) + u64(position % p.format.window) * p.format.kv_stride;
    }
    k -= window;
    if (chosen != ~0u) k = ptr<const u32>(p.selection)[u64(row) * p.top_k + k];
    const u64 *pages = ptr<const u64>(span.pages);
    return ptr<const u8>(pages[k / p.place.rows_per_page]) + p.place.page_kv + u64(k % p.place.rows_per_page) * p.format.kv_stride;
}

/// Four E4M3 codes times a power of two, as float16 pairs (0, 1) and (2, 3).
DS4_DEVICE void e4m3_halves(u32 codes, u32 scale, u32 &low, u32 &high) {
    // In a float16's fields a code is its value times 2^-8; `scale` makes up for that.
    u32 a = byte_perm(codes, 0, 0x1404), b = byte_perm(codes, 0, 0x3424);
    low = mul_halves((a & 0x80008000u) | (a & 0x7F007F00u) >> 1, scale);
    high = mul_halves((b & 0x80008000u) | (b & 0x7F007F00u) >> 1, scale);
}

/// The scale of `e4m3_halves`, in both halves, for a row's exponent.
DS4_DEVICE u32 half_scale(u32 exponent) {
    u32 half = float_to_half(fminf(e8m0_decode(exponent) * 256.0f, 65504.0f));
    return half | half << 16;
}

/// Four channels of a packed row as they are stored: codes and exponent, or float16.
struct PackedChannels {
    uint2 v;
    u32 exponent;
};

DS4_DEVICE PackedChannels load_packed(const CacheFormat &f, const u8 *row, u32 channel) {
    if (channel >= f.nope) return {load<uint2>(row + f.nope + (channel - f.nope) * 2), 0};
    return {{load<u32>(row + channel), 0}, row[f.nope + f.rope * 2 + channel / 64]};
}

DS4_DEVICE void unpack(const CacheFormat &f, const PackedChannels &c, u32 channel, u32 &low, u32 &high) {
    low = c.v.x, high = c.v.y;
    if (channel >= f.nope) return;
    e4m3_halves(c.v.x, half_scale(c.exponent), low, high);
}

DS4_DEVICE void split_float(float v, u16 &hi, u16 &lo) {
    hi = float_to_half(v);
    lo = float_to_half(v - half_to_float(hi));
}

DS4_DEVICE void stage_packed(AttendMemory<64, false> &m, const AttendParams &p, u32 count) {
    u32 quads = p.format.dim / 4, total = 32 * quads;
    // Several loads on their way at a time.
    constexpr int kBatch = 4;
    for (u32 base = threadIdx.x; base < total; base += 256 * kBatch) {
        PackedChannels c[kBatch][2];
#pragma unroll
        for (int k = 0; k < kBatch; k++) {
            u32 i = base + k * 256, pair = i / quads, channel = i % quads * 4;
            // A key that is none contributes nothing: zero, with a weight of zero.
            c[k][0] = c[k][1] = {{0, 0}, 0};
            if (i < total && pair * 2 < count) c[k][0] = load_packed(p.format, ptr<const u8>(m.address[pair * 2]), channel);
            if (i < total && pair * 2 + 1 < count) c[k][1] = load_packed(p.format, ptr<const u8>(m.address[pair * 2 + 1]), channel);
        }
#pragma unroll
        for (int k = 0; k < kBatch; k++) {
            u32 i = base + k * 256, pair = i / quads, channel = i % quads * 4;
            if (i >= total) break;
            u32 a0, a1, b0, b1;
            unpack(p.format, c[k][0], channel, a0, a1), unpack(p.format, c[k][1], channel, b0, b1);
            uint4 v = {byte_perm(a0, b0, 0x5410), byte_perm(a0, b0, 0x7632), byte_perm(a1, b1, 0x5410), byte_perm(a1, b1, 0x7632)};
            *reinterpret_cast<uint4 *>(&m.keys[pair * kPairWords + channel]) = v;
        }
    }
}

DS4_DEVICE void stage_exact(AttendMemory<32, true> &m, const AttendParams &p, u32 count) {
    u32 quads = p.format.dim / 4;
    for (u32 i = threadIdx.x; i < 16 * quads; i += 256) {
        u32 pair = i / quads, channel = i % quads * 4;
        float4 a = {0.0f, 0.0f, 0.0f, 0.0f}, b = a;
        if (pair * 2 < count) a = load<float4>(ptr<const u8>(m.address[pair * 2]) + channel * 4);
        if (pair * 2 + 1 < count) b = load<float4>(ptr<const u8>(m.address[pair * 2 + 1]) + channel * 4);
        float v[8] = {a.x, b.x, a.y, b.y, a.z, b.z, a.w, b.w};
        for (int c = 0; c < 4; c++) {
            u16 h0, l0, h1, l1;
            split_float(v[2 * c], h0, l0), split_float(v[2 * c + 1], h1, l1);
            m.keys[pair * kPairWords + channel + c] = h0 | u32(h1) << 16;
            m.low[pair * kPairWords + channel + c] = l0 | u32(l1) << 16;
        }
    }
}

/// Scores of the chunk, before scaling, in four parts: warps share the channels, so that each reads its part of the queries once.
template <int KEYS, bool EXACT>
DS4_DEVICE void chunk_scores(AttendMemory<KEYS, EXACT> &m, const AttendParams &p, u32 row, u32 head) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, dim = p.format.dim;
    u32 h0 = min_u(head + g, p.heads - 1), h1 = min_u(head + g + 8, p.heads - 1);
    u64 q0 = (u64(row) * p.heads + h0) * dim, q1 = (u64(row) * p.heads + h1) * dim;
    const u16 *hi = ptr<const u16>(p.hi), *lo = ptr<const u16>(p.lo);
    u32 selector = g % 2 ? 0x7632u : 0x5410u;
    float acc[KEYS / 8][4] = {};
    for (u32 d = warp * 32; d < dim; d += 256) {
        u32 at = d + t * 8;
        uint4 qh0 = load<uint4>(hi + q0 + at), qh1 = load<uint4>(hi + q1 + at);
        uint4 ql0 = load<uint4>(lo + q0 + at), ql1 = load<uint4>(lo + q1 + at);
#pragma unroll
        for (int o = 0; o < KEYS / 8; o++) {
            u32 from = (o * 4 + g / 2) * kPairWords + at;
#pragma unroll
            for (int s = 0; s < 2; s++) {
                uint4 k = *reinterpret_cast<const uint4 *>(&m.keys[from + s * 4]);
                u32 b0 = byte_perm(k.x, k.y, selector), b1 = byte_perm(k.z, k.w, selector);
                u32 a0 = s ? qh0.z : qh0.x, a1 = s ? qh1.z : qh1.x, a2 = s ? qh0.w : qh0.y, a3 = s ? qh1.w : qh1.y;
                u32 e0 = s ? ql0.z : ql0.x, e1 = s ? ql1.z : ql1.x, e2 = s ? ql0.w : ql0.y, e3 = s ? ql1.w : ql1.y;
                mma_f16(acc[o], a0, a1, a2, a3, b0, b1);
                if (EXACT) {
                    mma_f16(acc[o], e0, e1, e2, e3, b0, b1);
                    uint4 l = *reinterpret_cast<const uint4 *>(&m.low[EXACT ? from + s * 4 : 0]);
                    mma_f16(acc[o], a0, a1, a2, a3, byte_perm(l.x, l.y, selector), byte_perm(l.z, l.w, selector));
                }
            }
        }
    }
    // Warps 4 to 7 leave their parts to warps 0 to 3.
    float(&part)[kHeads][KEYS] = m.scores[warp % 4];
    for (int turn = 1; turn >= 0; turn--) {
        if (int(warp / 4) == turn) {
#pragma unroll
            for (int o = 0; o < KEYS / 8; o++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float &to = part[g + i / 2 * 8][o * 8 + 2 * t + i % 2];
                    to = turn == 1 ? acc[o][i] : acc[o][i] + to;
                }
        }
        if (turn == 1) sync_block();
    }
}

/// Maximum, weights and their sum per head: two heads per warp.
template <int KEYS, bool EXACT>
DS4_DEVICE void chunk_softmax(AttendMemory<KEYS, EXACT> &m, const AttendParams &p, u32 count) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (u32 h = warp; h < kHeads; h += 8) {
        // Lane l has keys 2 l and 2 l + 1.
        float s[2] = {-infinity(), -infinity()};
        for (int i = 0; i < 2; i++) {
            u32 key = 2 * lane + i;
            if (key >= count || key >= KEYS) continue;
            float score = m.scores[0][h][key];
            for (int k = 1; k < 4; k++) score += m.scores[k][h][key];
            s[i] = score * p.scale;
        }
        float most = warp_max(fmaxf(s[0], s[1]));
        float w0 = expf(s[0] - most), w1 = expf(s[1] - most);
        float sum = warp_sum(w0 + w1);
        if (2 * lane < KEYS) {
            u16 h0, l0, h1, l1;
            split_float(w0, h0, l0), split_float(w1, h1, l1);
            m.p_hi[h][lane] = h0 | u32(h1) << 16, m.p_lo[h][lane] = l0 | u32(l1) << 16;
        }
        if (lane == 0) m.most[h] = most, m.sum[h] = sum;
    }
}

/// Weighted sum of the chunk's keys: a warp's eighth of the channels, octets of which are in `out`.
template <int KEYS, bool EXACT>
DS4_DEVICE void chunk_values(const AttendMemory<KEYS, EXACT> &m, u32 octets, u32 first, float (&out)[8][4]) {
    u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < 8; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
#pragma unroll
    for (int s = 0; s < KEYS / 16; s++) {
        // Keys 16 s + 2 t, + 1 and 16 s + 8 + 2 t, + 1: pairs 8 s + t and 8 s + 4 + t.
        u32 a0 = m.p_hi[g][s * 8 + t], a1 = m.p_hi[g + 8][s * 8 + t], a2 = m.p_hi[g][s * 8 + 4 + t], a3 = m.p_hi[g + 8][s * 8 + 4 + t];
        u32 e0 = m.p_lo[g][s * 8 + t], e1 = m.p_lo[g + 8][s * 8 + t], e2 = m.p_lo[g][s * 8 + 4 + t], e3 = m.p_lo[g + 8][s * 8 + 4 + t];
#pragma unroll
        for (int n = 0; n < 8; n++) {
            if (u32(n) >= octets) break;
            u32 at = (s * 8 + t) * kPairWords + first + n * 8 + g;
            u32 b0 = m.keys[at], b1 = m.keys[at + 4 * kPairWords];
            mma_f16(out[n], a0, a1, a2, a3, b0, b1);
            if (EXACT) mma_f16(out[n], e0, e1, e2, e3, b0, b1);
            if (EXACT) mma_f16(out[n], a0, a1, a2, a3, m.low[EXACT ? at : 0], m.low[EXACT ? at + 4 * kPairWords : 0]);
        }
    }
}

/// How a chunk joins those before it: both sides' factors and the new maximum and sum.
DS4_DEVICE void merge_factors(float &run_most, float &run_sum, float most, float sum, float &before, float &now) {
    float larger = fmaxf(run_most, most);
    before = expf(run_most - larger), now = expf(most - larger);
    run_most = larger;
    run_sum = fmaf(run_sum, before, sum * now);
}

DS4_DEVICE float merge_value(float run, float before, float value, float now) { return fmaf(run, before, value * now); }

/// What a head's weighted sums are multiplied with at the end: one over the sum of the weights, the sink included.
DS4_DEVICE float head_factor(const AttendParams &p, u32 head, float most, float sum) {
    float sink = ptr<const float>(p.sinks)[head];
    float larger = fmaxf(most, sink);
    float factor = expf(most - larger);
    return factor / fmaf(sum, factor, expf(sink - larger));
}

/// Rotates two neighbouring channels back.
DS4_DEVICE float2 rotate_back(const AttendParams &p, u32 row, u32 channel, float a, float b) {
    u32 tail = p.format.dim - p.format.rope;
    if (channel < tail) return {a, b};
    float2 r = ptr<const float2>(p.angles)[(u64(row) * 2 + p.kind) * p.pairs + (channel - tail) / 2];
    return {a * r.x + b * r.y, b * r.x - a * r.y};
}

/// Finishes and stores two neighbouring channels.
DS4_DEVICE void finish_pair(const AttendParams &p, u32 row, u32 head, u32 channel, float a, float b, float most, float sum, bool write) {
    float factor = head_factor(p, head, most, sum);
    float2 v = rotate_back(p, row, channel, a * factor, b * factor);
    if (write) *reinterpret_cast<float2 *>(ptr<float>(p.attended) + (u64(row) * p.heads + head) * p.format.dim + channel) = v;
}

template <int KEYS, bool EXACT>
DS4_DEVICE void attend_block(const AttendParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    AttendMemory<KEYS, EXACT> &m = *reinterpret_cast<AttendMemory<KEYS, EXACT> *>(memory);
    u32 row = blockIdx.z, head = blockIdx.y * kHeads, dim = p.format.dim;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    Span span = ptr<const Span>(p.spans)[info.span];
    u32 first = info.position + 1 > p.format.window ? info.position + 1 - p.format.window : 0;
    u32 window = info.position + 1 - first;
    u32 chosen = !p.selects ? ~0u : ptr<const u32>(p.selected)[row];
    u32 compressed = p.place.ratio == 0 ? 0 : chosen != ~0u ? chosen : (info.position + 1) / p.place.ratio;
    u32 keys = window + compressed, chunks = div_up(keys, KEYS);
    // A warp's channels, at most 64 of 512.
    u32 octets = dim / 64, channel = warp * (dim / 8);
    float run[8][4] = {}, out[8][4];
    u32 begin = p.split ? blockIdx.x : 0, end = p.split ? min_u(blockIdx.x + 1, chunks) : chunks;
    for (u32 chunk = begin; chunk < end; chunk++) {
        u32 count = min_u(KEYS, keys - chunk * KEYS);
        sync_block();
        if (threadIdx.x < KEYS)
            m.address[threadIdx.x] = reinterpret_cast<u64>(
                key_address(p, span, row, first, window, chosen, chunk * KEYS + min_u(threadIdx.x, count - 1)));
        sync_block();
        if constexpr (EXACT) stage_exact(m, p, count);
        else stage_packed(m, p, count);
        sync_block();
        chunk_scores<KEYS, EXACT>(m, p, row, head);
        sync_block();
        chunk_softmax<KEYS, EXACT>(m, p, count);
        sync_block();
        chunk_values<KEYS, EXACT>(m, octets, channel, out);
        if (p.split) {
            u64 at = (u64(row) * p.heads) * p.most_chunks;
#pragma unroll
            for (int n = 0; n < 8; n++) {
                if (u32(n) >= octets) break;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    u32 h = head + g + i * 8;
                    if (h >= p.heads) continue;
                    float2 v = {out[n][2 * i], out[n][2 * i + 1]};
                    *reinterpret_cast<float2 *>(ptr<float>(p.part_out) + (at + u64(h) * p.most_chunks + chunk) * dim + channel + n * 8 + 2 * t) = v;
                }
            }
            if (threadIdx.x < kHeads && head + threadIdx.x < p.heads) {
                ptr<float>(p.part_max)[at + u64(head + threadIdx.x) * p.most_chunks + chunk] = m.most[threadIdx.x];
                ptr<float>(p.part_sum)[at + u64(head + threadIdx.x) * p.most_chunks + chunk] = m.sum[threadIdx.x];
            }
            continue;
        }
        if (threadIdx.x < kHeads) {
            u32 h = threadIdx.x;
            if (chunk == 0) m.run_most[h] = m.most[h], m.run_sum[h] = m.sum[h];
            else merge_factors(m.run_most[h], m.run_sum[h], m.most[h], m.sum[h], m.before[h], m.now[h]);
        }
        sync_block();
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                run[n][i] = chunk == 0 ? out[n][i] : merge_value(run[n][i], m.before[g + i / 2 * 8], out[n][i], m.now[g + i / 2 * 8]);
    }
    if (p.split) return;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        if (u32(n) >= octets) break;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 h = g + i * 8;
            finish_pair(p, row, min_u(head + h, p.heads - 1), channel + n * 8 + 2 * t, run[n][2 * i], run[n][2 * i + 1], m.run_most[h],
                        m.run_sum[h], head + h < p.heads);
        }
    }
}

/// grid: (chunks, heads / 16, rows) with `split`, (1, heads / 16, rows) without; 256 threads.
DS4_KERNEL(attend_packed, 256, 2, AttendParams) { attend_block<64, false>(p); }
DS4_KERNEL(attend_exact, 256, 2, AttendParams) { attend_block<32, true>(p); }

/// Merges the chunks of one head and row. grid: (heads, rows); 256 threads: channels 2 t and 2 t + 1 each.
DS4_KERNEL(attend_merge, 256, 2, AttendParams) {
    u32 head = blockIdx.x, row = blockIdx.y, t = threadIdx.x, dim = p.format.dim;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    u32 window = min_u(info.position + 1, p.format.window);
    u32 chosen = !p.selects ? ~0u : ptr<const u32>(p.selected)[row];
    u32 compressed = p.place.ratio == 0 ? 0 : chosen != ~0u ? chosen : (info.position + 1) / p.place.ratio;
    u32 chunks = div_up(window + compressed, p.format.exact ? 32 : 64);
    u64 at = (u64(row) * p.heads + head) * p.most_chunks;
    const float *most = ptr<const float>(p.part_max) + at, *sum = ptr<const float>(p.part_sum) + at;
    float run_most = most[0], run_sum = sum[0];
    bool inside = 2 * t < dim;
    const float *out = ptr<const float>(p.part_out) + at * dim + 2 * t;
    float2 run = {0.0f, 0.0f};
    if (inside) run = load<float2>(out);
    for (u32 chunk = 1; chunk < chunks; chunk++) {
        float before, now;
        merge_factors(run_most, run_sum, most[chunk], sum[chunk], before, now);
        if (!inside) continue;
        float2 v = load<float2>(out + u64(chunk) * dim);
        run = {merge_value(run.x, before, v.x, now), merge_value(run.y, before, v.y, now)};
    }
    if (inside) finish_pair(p, row, head, 2 * t, run.x, run.y, run_most, run_sum, true);
}

#include "attend_one.cuh"
#include "attention_rows.cuh"
