// The lightning indexer: scores of the compressed rows, and the rows with the largest ones.
#include "rounding.cuh"
#include "weights.cuh"

struct IndexParams {
    u64 rows, spans, codes, code_scales, query, head_weights, scores, selection, selected;
    LayerPlace place;
    CacheFormat format;
    u32 heads, dim, top_k, first_row, score_stride;
    /// Keys that one block scores.
    u32 keys;
    /// Batch rows, from `first_row` on.
    u32 count, pad;
};

constexpr int kHeadTiles = 4;

DS4_DEVICE const u8 *index_row(const IndexParams &p, const u64 *pages, u32 key) {
    return ptr<const u8>(pages[key / p.place.rows_per_page]) + p.place.page_index +
           u64(key % p.place.rows_per_page) * p.format.index_stride;
}

/// Four E2M1 codes, the low nibbles first, as doubled values in float16: two each. Their low bytes are zero.
DS4_DEVICE void e2m1_halves(u32 codes, u32 &low, u32 &high) {
    u32 upper = byte_perm(0x42403C00u, 0x4A484644u, codes & 0x7777u);
    // 0xFF where a code's sign is set, else 0x80.
    u32 signs = byte_perm(0x80808080u, 0x80808080u, codes);
    upper |= signs << 7 & 0x80808080u;
    low = byte_perm(upper, 0, 0x1404), high = byte_perm(upper, 0, 0x3424);
}

/// 2^-below as float16, in both halves. Nothing is left of it from 2^-25 on.
DS4_DEVICE u32 half_power(u32 below) {
    u32 half = float_to_half(as_float((127 - min_u(below, 100)) << 23));
    return half | half << 16;
}

/// The largest of four bytes.
DS4_DEVICE u32 largest_byte(u32 bytes) {
    return max_u(max_u(bytes & 0xFF, bytes >> 8 & 0xFF), max_u(bytes >> 16 & 0xFF, bytes >> 24));
}

/// A packed key's factor: half of the largest scale of its groups, which its doubled codes are relative to.
DS4_DEVICE float key_factor(u32 scales) { return 0.5f * e8m0_decode(largest_byte(scales)); }

/// A row's queries as operands of up to 64 heads of 128 channels: doubled codes as float16, groups of 32 relative to the head's largest scale,
/// and the heads' weights times that scale. All of these scales are powers of two: products and sums are what they would be with the scales
/// applied afterwards, but for groups that are more than 2^20 times smaller than another one of their head or key.
struct HeadOperands {
    u32 a[kHeadTiles][4][8];
    float weight[kHeadTiles][2];

    DS4_MEMBER void load_from(const IndexParams &p, u32 row) {
        u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const u8 *codes = ptr<const u8>(p.codes) + u64(row) * p.heads * 128;
        const float *scales = ptr<const float>(p.code_scales) + u64(row) * p.heads * 4;
        const float *weights = ptr<const float>(p.head_weights) + u64(row) * p.heads;
#pragma unroll
        for (int m = 0; m < kHeadTiles; m++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                u32 h = m * 16 + k * 8 + g, inside = min_u(h, p.heads - 1);
                float4 v = load<float4>(scales + inside * 4);
                float scale[4] = {v.x, v.y, v.z, v.w}, most = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
                weight[m][k] = h < p.heads ? weights[inside] * most : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint2 q = load<uint2>(codes + inside * 128 + i * 32 + t * 8);
                    u32 halves[4], factor = half_power((as_bits(most) >> 23) - (as_bits(scale[i]) >> 23));
                    bytes_to_halves(q.x, halves[0], halves[1]), bytes_to_halves(q.y, halves[2], halves[3]);
#pragma unroll
                    for (int e = 0; e < 4; e++) a[m][i][e * 2 + k] = mul_halves(halves[e], factor);
                }
            }
    }
    /// Adds the weighted scores of an octet of keys over this lane's heads, and over the other lanes': of keys 2t and 2t + 1. `b[i]`: group i
    /// of key g.
    DS4_MEMBER void score(const u32 (&b)[4][4], float &even, float &odd) const {
        float acc[kHeadTiles][4] = {};
        // Without a branch: what depends on each other is as far apart as can be.
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int m = 0; m < kHeadTiles; m++) {
                    const u32 *q = a[m][i] + half * 4;
                    mma_f16(acc[m], q[0], q[1], q[2], q[3], b[i][half * 2], b[i][half * 2 + 1]);
                }
        even = odd = 0.0f;
#pragma unroll
        for (int m = 0; m < kHeadTiles; m++) {
            even = fmaf(weight[m][0], fmaxf(acc[m][0], 0.0f), even), even = fmaf(weight[m][1], fmaxf(acc[m][2], 0.0f), even);
            odd = fmaf(weight[m][0], fmaxf(acc[m][1], 0.0f), odd), odd = fmaf(weight[m][1], fmaxf(acc[m][3], 0.0f), odd);
        }
        for (int mask = 4; mask < 32; mask *= 2) even += shuffle_xor(even, mask), odd += shuffle_xor(odd, mask);
    }
};

/// Rounded rows, one batch row per block: a warp keeps its queries in registers for all its keys.
DS4_DEVICE void score_packed(const IndexParams &p, u32 row, u32 visible, const u64 *pages) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    HeadOperands heads;
    heads.load_from(p, row);
    u32 end = min_u(visible, (blockIdx.x + 1) * p.keys);
    mark(2);
    for (u32 first = blockIdx.x * p.keys + warp * 8; first < end; first += 64) {
        const u8 *key = index_row(p, pages, min_u(first + g, visible - 1));
        u32 b[4][4], scales = load<u32>(key + 64), most = largest_byte(scales);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 word = load<u32>(key + i * 16 + t * 4), factor = half_power(most - (scales >> (8 * i) & 0xFF));
            e2m1_halves(word, b[i][0], b[i][1]), e2m1_halves(word >> 16, b[i][2], b[i][3]);
#pragma unroll
            for (int e = 0; e < 4; e++) b[i][e] = mul_halves(b[i][e], factor);
        }
        const u8 *even = index_row(p, pages, min_u(first + 2 * t, visible - 1));
        const u8 *odd = index_row(p, pages, min_u(first + 2 * t + 1, visible - 1));
        float even_factor = key_factor(load<u32>(even + 64)), odd_factor = key_factor(load<u32>(odd + 64));
        float sum0, sum1;
        heads.score(b, sum0, sum1);
        float *scores = ptr<float>(p.scores) + u64(blockIdx.y) * p.score_stride + first + 2 * t;
        if (g == 0 && first + 2 * t < visible) scores[0] = sum0 * even_factor;
        if (g == 0 && first + 2 * t + 1 < visible) scores[1] = sum1 * odd_factor;
    }
}

/// float32 rows: one key per warp at a time, heads in order.
DS4_DEVICE void score_exact(const IndexParams &p, u32 row, u32 visible, const u64 *pages) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float *query = ptr<const float>(p.query) + u64(row) * p.heads * p.dim;
    const float *weights = ptr<const float>(p.head_weights) + u64(row) * p.heads;
    for (u32 k = warp; k < p.keys; k += 8) {
        u32 key = blockIdx.x * p.keys + k;
        if (key >= visible) break;
        const float *values = reinterpret_cast<const float *>(index_row(p, pages, key));
        float sum = 0.0f;
        for (u32 h = 0; h < p.heads; h++) {
            float dot = 0.0f;
            for (u32 d = lane; d < p.dim; d += 32) dot = fmaf(query[h * p.dim + d], values[d], dot);
            sum = fmaf(weights[h], fmaxf(warp_sum(dot), 0.0f), sum);
        }
        if (lane == 0) ptr<float>(p.scores)[u64(blockIdx.y) * p.score_stride + key] = sum;
    }
}

/// Scores of the rows that a batch row sees, where it has to choose. grid: (keys / p.keys, rows); 256 threads.
DS4_KERNEL(index_scores, 256, 1, IndexParams) {
    u32 row = p.first_row + blockIdx.y;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    u32 visible = (info.position + 1) / p.place.ratio;
    if (visible <= p.top_k || blockIdx.x * p.keys >= visible) return;
    const u64 *pages = ptr<const u64>(ptr<const Span>(p.spans)[info.span].pages);
    if (p.format.exact) score_exact(p, row, visible, pages);
    else score_packed(p, row, visible, pages);
}

#include "indexer_rows.cuh"

/// Bins of a digit of the keys, and copies of the counters: threads that count in one bin wait for each other.
constexpr u32 kBins = 2048, kCopies = 4;
/// Keys that a thread keeps in registers; those of longer rows are read again in each pass.
constexpr int kKept = 32;

struct TopMemory {
    u32 histogram[kCopies][kBins];
    u32 totals[32], equal[32], above[32];
    u32 chosen, wanted;
};

/// Sum over the lanes up to this one.
DS4_DEVICE u32 warp_scan(u32 v) {
    u32 lane = threadIdx.x % 32;
    for (u32 step = 1; step < 32; step *= 2) {
        u32 other = shuffle(v, int(lane - step));
        if (lane >= step) v += other;
    }
    return v;
}

/// The digit of the `need`-th largest key among those counted, in `chosen`; how many of its bin are needed, in `wanted`. Thread t has
/// the bins 2047 - 2 t and the next lower one.
DS4_DEVICE void find_bin(TopMemory &m, u32 need) {
    u32 t = threadIdx.x, warp = t / 32, lane = t % 32, high = kBins - 1 - 2 * t;
    u32 first = 0, second = 0;
    for (u32 c = 0; c < kCopies; c++) first += m.histogram[c][high], second += m.histogram[c][high - 1];
    u32 upto = warp_scan(first + second);
    if (lane == 31) m.totals[warp] = upto;
    sync_block();
    u32 total = m.totals[lane], before = warp_scan(total) - total;
    u32 above = shuffle(before, int(warp)) + upto - first - second;
    if (above < need && above + first >= need) m.chosen = high, m.wanted = need - above;
    else if (above + first < need && above + first + second >= need) m.chosen = high - 1, m.wanted = need - above - first;
    sync_block();
}

/// The largest `top_k` scores of each row, the lower row first among equals; ascending. `selected`: how many were chosen, or
/// all ones where the row attends to all it sees. grid: rows; 1024 threads: a warp has consecutive keys.
DS4_KERNEL(index_top, 1024, 1, IndexParams) {
    __shared__ TopMemory m;
    u32 row = p.first_row + blockIdx.x, t = threadIdx.x, warp = t / 32, lane = t % 32;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    u32 visible = (info.position + 1) / p.place.ratio;
    if (visible <= p.top_k) {
        if (t == 0) ptr<u32>(p.selected)[row] = ~0u;
        return;
    }
    const float *scores = ptr<const float>(p.scores) + u64(blockIdx.x) * p.score_stride;
    u32 steps = div_up(visible, 1024), begin = warp * steps * 32 + lane;
    // Keys that are none are 0, below that of every score.
    u32 kept[kKept];
    bool keeps = steps <= u32(kKept);
    auto key_at = [&](u32 i) { return i < visible ? max_u(order_key(scores[i]), 1) : 0; };
    if (keeps) {
        // Several loads before what is made of them.
        constexpr int kBatch = 8;
#pragma unroll
        for (int first = 0; first < kKept; first += kBatch) {
            if (u32(first) >= steps) break;
            float score[kBatch];
#pragma unroll
            for (int j = 0; j < kBatch; j++) {
                u32 i = begin + (first + j) * 32;
                score[j] = u32(first + j) < steps && i < visible ? scores[i] : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < kBatch; j++) kept[first + j] = begin + (first + j) * 32 < visible ? max_u(order_key(score[j]), 1) : 0;
        }
    }
    mark(2);
    auto each = [&](auto &&visit) {
        if (keeps) {
#pragma unroll
            for (int j = 0; j < kKept; j++) {
                if (u32(j) >= steps) break;
                visit(begin + j * 32, kept[j]);
            }
        } else {
#pragma unroll 1
            for (u32 j = 0; j < steps; j++) visit(begin + j * 32, key_at(begin + j * 32));
        }
    };
    // Some bits of the smallest chosen key at a time.
    u32 prefix = 0, need = p.top_k;
    constexpr int kShifts[3] = {21, 10, 0};
#pragma unroll 1
    for (int digit = 0; digit < 3; digit++) {
        int shift = kShifts[digit], width = digit == 2 ? 10 : 11, end = shift + width;
        for (u32 i = t; i < kCopies * kBins; i += 1024) m.histogram[i / kBins][i % kBins] = 0;
        sync_block();
        u32 *counts = m.histogram[warp % kCopies];
        each([&](u32, u32 key) {
            if (key != 0 && (digit == 0 || key >> end == prefix >> end)) atomic_add(&counts[key >> shift & ((1u << width) - 1)], 1);
        });
        sync_block();
        find_bin(m, need);
        prefix |= m.chosen << shift;
        need = m.wanted;
        sync_block();
        mark(3 + digit);
    }
    u32 equal = 0, above = 0;
    each([&](u32, u32 key) {
        equal += count_bits(warp_votes(key == prefix)), above += count_bits(warp_votes(key > prefix));
    });
    if (lane == 0) m.equal[warp] = equal, m.above[warp] = above;
    sync_block();
    // Lane l has what warp l takes: of the keys that equal the smallest one only the first.
    u32 equals = m.equal[lane], equals_before = warp_scan(equals) - equals;
    u32 takes = m.above[lane] + (equals_before < need ? min_u(equals, need - equals_before) : 0);
    u32 places = warp_scan(takes) - takes;
    u32 rank = shuffle(equals_before, int(warp)), place = shuffle(places, int(warp));
    u32 *out = ptr<u32>(p.selection) + u64(row) * p.top_k;
    u32 lower = (1u << lane) - 1;
    each([&](u32 i, u32 key) {
        u32 equal_votes = warp_votes(key == prefix);
        bool take = key > prefix || (key == prefix && rank + count_bits(equal_votes & lower) < need);
        u32 votes = warp_votes(take);
        if (take) out[place + count_bits(votes & lower)] = i;
        rank += count_bits(equal_votes), place += count_bits(votes);
    });
    if (t == 0) ptr<u32>(p.selected)[row] = p.top_k;
}
