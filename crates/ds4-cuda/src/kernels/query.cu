// Queries after their projection: norm and rotation of every head; rotation and rounding of the indexer's heads.
#include "rounding.cuh"

struct QueryParams {
    /// Without `lo` only float16 are written: attention of large batches reads nothing else.
    u64 query, hi, lo, index_query, index_codes, index_scales, angles;
    u32 heads, dim, rope, index_heads, index_dim, pairs, kind, exact;
    float eps;
    /// Whether values are final already and only the other forms are to be made.
    u32 forms_only;
};

constexpr int kMostPairs = 8;

DS4_DEVICE void attention_head(const QueryParams &p, u32 row, u32 head) {
    u32 lane = threadIdx.x % 32, chunks = p.dim / 64;
    u64 at = (u64(row) * p.heads + head) * p.dim;
    float2 *q = ptr<float2>(p.query + at * 4);
    float2 v[kMostPairs];
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kMostPairs; j++) {
        if (u32(j) >= chunks) break;
        v[j] = q[j * 32 + lane];
        sum = fmaf(v[j].x, v[j].x, sum), sum = fmaf(v[j].y, v[j].y, sum);
    }
    float scale = 1.0f / sqrtf(warp_sum(sum) / float(p.dim) + p.eps);
    const float2 *angles = ptr<const float2>(p.angles) + (u64(row) * 2 + p.kind) * p.pairs;
#pragma unroll
    for (int j = 0; j < kMostPairs; j++) {
        if (u32(j) >= chunks) break;
        float2 r = v[j];
        if (!p.forms_only) {
            r = {v[j].x * scale, v[j].y * scale};
            u32 channel = j * 64 + lane * 2;
            if (channel >= p.dim - p.rope) {
                float2 a = angles[(channel - (p.dim - p.rope)) / 2];
                r = {r.x * a.x - r.y * a.y, r.x * a.y + r.y * a.x};
            }
            if (p.lo != 0) q[j * 32 + lane] = r;
        }
        u16 h0 = float_to_half(r.x), h1 = float_to_half(r.y);
        ptr<u32>(p.hi + at * 2)[j * 32 + lane] = h0 | u32(h1) << 16;
        if (p.lo != 0) ptr<u32>(p.lo + at * 2)[j * 32 + lane] = pack_halves(r.x - half_to_float(h0), r.y - half_to_float(h1));
    }
}

DS4_DEVICE void index_head(const QueryParams &p, u32 row, u32 head) {
    u32 lane = threadIdx.x % 32;
    u64 at = (u64(row) * p.index_heads + head) * p.index_dim;
    float2 *q = ptr<float2>(p.index_query + at * 4);
    float2 low = q[lane], high = q[32 + lane];
    if (!p.forms_only) {
        const float2 *angles = ptr<const float2>(p.angles) + (u64(row) * 2 + p.kind) * p.pairs;
        u32 tail = p.index_dim - p.rope;
        if (2 * lane >= tail) {
            float2 a = angles[(2 * lane - tail) / 2];
            low = {low.x * a.x - low.y * a.y, low.x * a.y + low.y * a.x};
        }
        if (64 + 2 * lane >= tail) {
            float2 a = angles[(64 + 2 * lane - tail) / 2];
            high = {high.x * a.x - high.y * a.y, high.x * a.y + high.y * a.x};
        }
    }
    float v[4] = {low.x, low.y, high.x, high.y};
    if (!p.exact) {
        u32 code[4];
        float scale[2];
        if (!p.forms_only) hadamard_128(v);
        round_index(v, code, scale);
        u8 *codes = ptr<u8>(p.index_codes + at);
        for (int j = 0; j < 2; j++) {
            int a = e2m1_doubled_one(code[2 * j]), b = e2m1_doubled_one(code[2 * j + 1]);
            *reinterpret_cast<u16 *>(codes + j * 64 + lane * 2) = u16((a & 0xFF) | (b & 0xFF) << 8);
            if (lane % 16 == 0) ptr<float>(p.index_scales)[at / 32 + j * 2 + lane / 16] = scale[j] * 0.5f;
        }
    }
    if (!p.forms_only) q[lane] = {v[0], v[1]}, q[32 + lane] = {v[2], v[3]};
}

/// One head per warp. grid: (heads of both kinds / 8, rows); 256 threads.
DS4_KERNEL(query_heads, 256, 4, QueryParams) {
    u32 head = blockIdx.x * 8 + threadIdx.x / 32;
    if (head < p.heads) attention_head(p, blockIdx.y, head);
    else if (head < p.heads + p.index_heads) index_head(p, blockIdx.y, head - p.heads);
}
