// What kernels of experts of small batches have in common.
#pragma once
#include "forms.cuh"
#include "product.cuh"

struct ExpertParams {
    Weight gate, up, shared_gate, shared_up;
    Rows x, mid;
    u64 items, item_count, list, weights;
    u32 n_expert, used;
    float limit;
    u32 halves;
    /// Entries of `list`; most items.
    u32 slots, most_items;
};

struct DownParams {
    Weight routed, shared;
    Rows x;
    u64 items, item_count, list, y;
    u32 n_expert, y_stride;
    /// Entries of `list`; most items.
    u32 slots, most_items;
};

/// The columns of an item that a lane of an octet has.
DS4_DEVICE LaneColumns<1> item_columns(const u32 *list, const Item &item, u32 divisor) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 *slots = list + item.first;
    return {{slots[min_u(g, item.count - 1)] / divisor},
            {slots[min_u(2 * t, item.count - 1)] / divisor},
            {slots[min_u(2 * t + 1, item.count - 1)] / divisor}};
}
