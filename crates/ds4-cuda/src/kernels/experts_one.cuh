// What kernels of the routed experts of one row have in common.
#pragma once
#include "forms.cuh"
#include "stream.cuh"

struct ExpertOneParams {
    Weight gate, up;
    Rows x, mid;
    u64 ids, weights;
    u32 used;
    float limit;
    u32 halves, pad;
};

/// The columns of x of a batch of one row (or slot): all the same.
DS4_DEVICE LaneColumns<1> one_column(u32 row) { return {{row}, {row}, {row}}; }

/// Sum of the segments of row `row` of a tile.
DS4_DEVICE float one_sum(const float *part, u32 segments, u32 row) {
    float sum = part[row];
    for (u32 s = 1; s < segments; s++) sum += part[s * 16 + row];
    return sum;
}

struct DownOneParams {
    Weight routed, shared;
    Rows x;
    u64 ids, y;
    u32 used, pad;
};
