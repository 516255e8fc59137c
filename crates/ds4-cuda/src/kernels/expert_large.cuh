// What both kernels for experts of large batches share: which columns an item has, and minima.
#pragma once
#include "tile.cuh"

/// Columns of an item.
constexpr int kColumns = 64;

struct ExpertTileParams {
    /// One or two stacks of the same shape, and where their results go.
    Weight w[2];
    u64 y[2];
    Rows x;
    u64 items, item_count, list;
    u32 y_stride, units, slots, by_slot;
};

/// Notes the rows of x and of y that the item's columns are; columns behind the last repeat it. A barrier has to follow.
template <class Memory>
DS4_DEVICE void note_columns(Memory &m, const ExpertTileParams &p, const Item &item) {
    if (threadIdx.x >= kColumns) return;
    u32 slot = ptr<const u32>(p.list)[item.first + min_u(threadIdx.x, item.count - 1)];
    m.x_row[threadIdx.x] = p.by_slot ? slot : slot / p.slots;
    m.y_row[threadIdx.x] = slot;
}

/// Takes a block's minima times the columns' sums off: sums [column][lane's t].
template <u32 TYPE, int NT>
DS4_DEVICE void add_minima(const BlockOf<TYPE> &block, const uint4 (&sums)[kColumns][4], u32 lane, float (&acc)[NT][4]) {
    u32 g = lane / 4, t = lane % 4, minima[4];
    float factor[2];
    block.mins(minima, factor);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float c[4];
        minima_product(minima, sums[n * 8 + g][t], c);
        float(&to)[4] = acc[n];
        to[0] = fmaf(factor[0], c[0], to[0]), to[1] = fmaf(factor[0], c[1], to[1]);
        to[2] = fmaf(factor[1], c[2], to[2]), to[3] = fmaf(factor[1], c[3], to[3]);
    }
}
