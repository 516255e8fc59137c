// What the products of large batches share: columns brought into shared memory some steps ahead, and the product of a warp's
// tiles with its columns.
//
// A block has sixteen warps. Sums of the running segment and of those before it stay in registers. Sums are cut as in
// `product.cuh`, so a column has the same bits here and in the kernels for small batches.
#pragma once
#include "product.cuh"

// Some cards give a block 99 KiB of shared memory at most; where there is more, more steps are on their way.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kMoreStages = 0;
#else
constexpr int kMoreStages = 1;
#endif

/// Runs `use(step, slot)` for every step; `load(step, slot)` begins to fill the slot STAGES - 1 steps before.
template <int STAGES, class Load, class Use>
DS4_DEVICE void staged(u32 steps, const Load &load, const Use &use) {
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(s, s);
        commit_copies();
    }
    u32 slot = 0, ahead = STAGES - 1;
    for (u32 step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        // The slot that is filled now was read in the step before.
        sync_block();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1, ahead);
        commit_copies();
        use(step, slot);
        slot = slot + 1 == STAGES ? 0 : slot + 1, ahead = ahead + 1 == STAGES ? 0 : ahead + 1;
    }
}

/// Where column c's scale lies among its group's: the four of lane t for two octets follow each other.
DS4_DEVICE u32 scale_place(u32 c) { return c / 16 * 16 + c % 8 / 2 * 4 + c / 8 % 2 * 2 + c % 2; }

/// Sums of a warp: M tiles of 16 rows times NT octets of columns.
template <int M, int NT>
struct WarpSums {
    float segment[M][NT][4], total[M][NT][4];

    DS4_MEMBER void clear() {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) segment[m][n][i] = 0.0f, total[m][n][i] = -0.0f;
    }
    /// Adds the segment to those before; -0 leaves the first one as it is.
    DS4_MEMBER void fold() {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) total[m][n][i] += segment[m][n][i], segment[m][n][i] = 0.0f;
    }
    /// Stores the sums of the tiles from `tile` on. `rows[c]`: row of y of the warp's column c, of which there are `count`.
    DS4_MEMBER void store(const Weight &w, u32 tile, const u32 *rows, u32 count, float *y, u32 stride, float scale) const {
        u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                u32 column = n * 8 + 2 * t + k;
                if (column >= count) continue;
                float *to = y + u64(rows[column]) * stride + tile * 16 + g;
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        u32 row = m * 16 + half * 8;
                        if (tile * 16 + g + row < w.rows) to[row] = total[m][n][half * 2 + k] * scale;
                    }
            }
    }
};

/// Adds the scaled products of one group: operands and scales of M tiles times NT octets of columns.
///
/// `b.codes(n)`: the lane's 8 int8 codes of column g of octet n. `b.scales(n)`: scales of columns 2t and 2t + 1 of octets n and
/// n + 1.
template <int M, int NT, class B>
DS4_DEVICE void add_group(const u32 (&a)[M][4], const float (&s)[M][2], const B &b, float (&acc)[M][NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
        float4 d = b.scales(n);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint2 codes = b.codes(n + k);
            u32 operand[2] = {codes.x, codes.y};
            float even = k == 0 ? d.x : d.z, odd = k == 0 ? d.y : d.w;
#pragma unroll
            for (int m = 0; m < M; m++) {
                int c[4] = {kMagicInt, kMagicInt, kMagicInt, kMagicInt};
                mma_s8(c, a[m], operand);
                float(&to)[4] = acc[m][n + k];
                to[0] = fmaf(magic_sum(c[0]), s[m][0] * even, to[0]);
                to[1] = fmaf(magic_sum(c[1]), s[m][0] * odd, to[1]);
                to[2] = fmaf(magic_sum(c[2]), s[m][1] * even, to[2]);
                to[3] = fmaf(magic_sum(c[3]), s[m][1] * odd, to[3]);
            }
        }
    }
}
