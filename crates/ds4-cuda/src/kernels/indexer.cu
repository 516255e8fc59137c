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

/// Rounded rows: products of doubled E2M1 values, exact as float16 with float32 sums, times both scales. Up to 64 heads of 128 channels. A
/// warp keeps the row's queries in registers for all its keys.
DS4_DEVICE void score_packed(const IndexParams &p, u32 row, u32 visible, const u64 *pages) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u8 *codes = ptr<const u8>(p.codes) + u64(row) * p.heads * 128;
    const float *scales = ptr<const float>(p.code_scales) + u64(row) * p.heads * 4;
    const float *weights = ptr<const float>(p.head_weights) + u64(row) * p.heads;
    u32 a[kHeadTiles][4][8];
    float scale[kHeadTiles][4][2], weight[kHeadTiles][2];
#pragma unroll
    for (int m = 0; m < kHeadTiles; m++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            u32 h = m * 16 + k * 8 + g, inside = min_u(h, p.heads - 1);
            weight[m][k] = h < p.heads ? weights[inside] : 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint2 q = load<uint2>(codes + inside * 128 + i * 32 + t * 8);
                bytes_to_halves(q.x, a[m][i][k], a[m][i][2 + k]), bytes_to_halves(q.y, a[m][i][4 + k], a[m][i][6 + k]);
                scale[m][i][k] = scales[inside * 4 + i];
            }
        }
    u32 end = min_u(visible, (blockIdx.x + 1) * p.keys);
    for (u32 first = blockIdx.x * p.keys + warp * 8; first < end; first += 64) {
        const u8 *key = index_row(p, pages, min_u(first + g, visible - 1));
        u32 b[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 word = load<u32>(key + i * 16 + t * 4);
            e2m1_halves(word, b[i][0], b[i][1]), e2m1_halves(word >> 16, b[i][2], b[i][3]);
        }
        const u8 *even = index_row(p, pages, min_u(first + 2 * t, visible - 1));
        const u8 *odd = index_row(p, pages, min_u(first + 2 * t + 1, visible - 1));
        u32 even_scales = load<u32>(even + 64), odd_scales = load<u32>(odd + 64);
        float k0[4], k1[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            k0[i] = 0.5f * e8m0_decode(even_scales >> (8 * i) & 0xFF);
            k1[i] = 0.5f * e8m0_decode(odd_scales >> (8 * i) & 0xFF);
        }
        float sum0 = 0.0f, sum1 = 0.0f;
#pragma unroll
        for (int m = 0; m < kHeadTiles; m++) {
            if (u32(m * 16) >= p.heads) break;
            float acc[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float c[4] = {};
                const u32(&q)[8] = a[m][i];
                mma_f16(c, q[0], q[1], q[2], q[3], b[i][0], b[i][1]);
                mma_f16(c, q[4], q[5], q[6], q[7], b[i][2], b[i][3]);
                float s0 = scale[m][i][0], s1 = scale[m][i][1];
                acc[0] = fmaf(c[0], s0 * k0[i], acc[0]), acc[1] = fmaf(c[1], s0 * k1[i], acc[1]);
                acc[2] = fmaf(c[2], s1 * k0[i], acc[2]), acc[3] = fmaf(c[3], s1 * k1[i], acc[3]);
            }
            sum0 = fmaf(weight[m][0], fmaxf(acc[0], 0.0f), sum0), sum0 = fmaf(weight[m][1], fmaxf(acc[2], 0.0f), sum0);
            sum1 = fmaf(weight[m][0], fmaxf(acc[1], 0.0f), sum1), sum1 = fmaf(weight[m][1], fmaxf(acc[3], 0.0f), sum1);
        }
        for (int mask = 4; mask < 32; mask *= 2) sum0 += shuffle_xor(sum0, mask), sum1 += shuffle_xor(sum1, mask);
        float *scores = ptr<float>(p.scores) + u64(blockIdx.y) * p.score_stride + first + 2 * t;
        if (g == 0 && first + 2 * t < visible) scores[0] = sum0;
        if (g == 0 && first + 2 * t + 1 < visible) scores[1] = sum1;
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

/// Larger scores have larger keys; -0 and +0 are the same.
DS4_DEVICE u32 order_key(float score) {
    u32 bits = as_bits(score + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// The largest `top_k` scores of each row, the lower row first among equals; ascending. `selected`: how many were chosen, or
/// all ones where the row attends to all it sees. grid: rows; 1024 threads.
DS4_KERNEL(index_top, 1024, 1, IndexParams) {
    __shared__ u32 histogram[256], chosen, wanted, warp_equal[32], warp_taken[32];
    u32 row = p.first_row + blockIdx.x, t = threadIdx.x, warp = t / 32, lane = t % 32;
    RowInfo info = ptr<const RowInfo>(p.rows)[row];
    u32 visible = (info.position + 1) / p.place.ratio;
    if (visible <= p.top_k) {
        if (t == 0) ptr<u32>(p.selected)[row] = ~0u;
        return;
    }
    const float *scores = ptr<const float>(p.scores) + u64(blockIdx.x) * p.score_stride;
    // Eight bits of the smallest chosen key at a time.
    u32 prefix = 0, need = p.top_k;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (t < 256) histogram[t] = 0;
        sync_block();
        for (u32 i = t; i < visible; i += 1024) {
            u32 key = order_key(scores[i]);
            if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) atomic_add(&histogram[key >> shift & 0xFF], 1);
        }
        sync_block();
        if (warp == 0) {
            // Lane l has bins 255 - 8 l and seven below; how many keys lie in bins above its own?
            u32 mine = 0;
            for (int k = 0; k < 8; k++) mine += histogram[255 - (lane * 8 + k)];
            u32 above = mine;
            for (u32 step = 1; step < 32; step *= 2) {
                u32 other = shuffle(above, int(lane - step));
                if (lane >= step) above += other;
            }
            above -= mine;
            if (above < need && above + mine >= need) {
                int bin = 255 - int(lane) * 8;
                while (above + histogram[bin] < need) above += histogram[bin--];
                chosen = u32(bin), wanted = need - above;
            }
        }
        sync_block();
        prefix |= chosen << shift;
        need = wanted;
        sync_block();
    }
    u32 *out = ptr<u32>(p.selection) + u64(row) * p.top_k;
    u32 equal_before = 0, taken_before = 0;
    for (u32 base = 0; base < visible; base += 1024) {
        u32 i = base + t;
        u32 key = i < visible ? order_key(scores[i]) : 0;
        bool above = i < visible && key > prefix, equal = i < visible && key == prefix;
        u32 equal_votes = warp_votes(equal);
        if (lane == 0) warp_equal[warp] = count_bits(equal_votes);
        sync_block();
        u32 rank = equal_before + count_bits(equal_votes & ((1u << lane) - 1));
        for (u32 w = 0; w < warp; w++) rank += warp_equal[w];
        bool take = above || (equal && rank < need);
        u32 take_votes = warp_votes(take);
        if (lane == 0) warp_taken[warp] = count_bits(take_votes);
        sync_block();
        u32 place = taken_before + count_bits(take_votes & ((1u << lane) - 1));
        for (u32 w = 0; w < warp; w++) place += warp_taken[w];
        if (take) out[place] = i;
        for (u32 w = 0; w < 32; w++) equal_before += warp_equal[w], taken_before += warp_taken[w];
        sync_block();
    }
    if (t == 0) ptr<u32>(p.selected)[row] = p.top_k;
}
