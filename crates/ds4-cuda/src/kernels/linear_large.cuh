// What kernels for dense products of large batches share: 128 rows of a matrix times 128 columns per block, the place of a
// block in its launch, and float16 weights.
#pragma once
#include "tile.cuh"

constexpr int kRowTiles = 8;
constexpr int kColumns = 128;

/// Two groups of float16 weights and columns.
struct HalfStage {
    uint4 weights[kRowTiles][2][2][32];
    uint4 hi[kColumns / 8][2][32], lo[kColumns / 8][2][32];
};

/// The product that a block works on, and its first column and row tile there.
struct LargeUnit {
    const Product &product;
    u32 first, tile;
};

/// Finds the block's unit and notes the rows of x and of y that its columns are. A barrier has to follow.
template <class Memory>
DS4_DEVICE LargeUnit note_columns(Memory &m, const ProductParams &p) {
    u32 index = 0, unit = blockIdx.y;
    while (unit >= p.products[index].unit_end) index++;
    if (index > 0) unit -= p.products[index - 1].unit_end;
    const Product &product = p.products[index];
    u32 first = blockIdx.x * kColumns, group = product.group_rows == 0 ? 0 : unit * 128 / product.group_rows;
    if (threadIdx.x < kColumns) {
        u32 column = min_u(first + threadIdx.x, p.rows - 1);
        m.x_row[threadIdx.x] = column * product.x_rows + group;
        m.y_row[threadIdx.x] = column;
    }
    return {product, first, unit * kRowTiles};
}

/// Adds one step of a warp's two tiles times its NT octets of columns.
template <int NT>
DS4_DEVICE void use_halves(const HalfStage &from, u32 warp, u32 lane, WarpSums<2, NT> &sums) {
    u32 rows = warp % 4 * 2, octets = warp / 4 * NT;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 r[2][2];
#pragma unroll
        for (int m = 0; m < 2; m++) r[m][0] = from.weights[rows + m][i][0][lane], r[m][1] = from.weights[rows + m][i][1][lane];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint4 hi = from.hi[octets + n][i][lane], lo = from.lo[octets + n][i][lane];
#pragma unroll
            for (int m = 0; m < 2; m++) {
                float(&to)[4] = sums.segment[m][n];
                mma_f16(to, r[m][0].x, r[m][1].x, r[m][0].y, r[m][1].y, hi.x, hi.y);
                mma_f16(to, r[m][0].x, r[m][1].x, r[m][0].y, r[m][1].y, lo.x, lo.y);
                mma_f16(to, r[m][0].z, r[m][1].z, r[m][0].w, r[m][1].w, hi.z, hi.w);
                mma_f16(to, r[m][0].z, r[m][1].z, r[m][0].w, r[m][1].w, lo.z, lo.w);
            }
        }
    }
}
