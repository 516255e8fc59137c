// Matrix products in plain float32 for every storage type: for comparisons, and for types that have no faster form.
//
// A warp computes one row of the matrix for eight columns of the batch at a time; lanes take octets in turn and are summed
// in a fixed tree, whatever the batch.
#include "product.cuh"

/// The sums of one row of a matrix with up to eight rows of x, in every lane.
DS4_DEVICE void float_dot(const Weight &w, u32 slab, u32 row, const float *const (&x)[8], u32 columns, float (&sum)[8]) {
    u32 lane = threadIdx.x % 32;
    for (int c = 0; c < 8; c++) sum[c] = 0.0f;
    for (u32 o = lane; o < div_up(w.cols, 8); o += 32) {
        float v[8];
        decode_octet(w, slab, row, o / 4, o % 4, v);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            if (u32(c) >= columns) break;
            for (int k = 0; k < 8; k++)
                if (o * 8 + k < w.cols) sum[c] = fmaf(v[k], x[c][o * 8 + k], sum[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < 8; c++) {
        if (u32(c) >= columns) break;
        sum[c] = warp_sum(sum[c]);
    }
}

/// grid: (rows of all products / 8, columns / 8); 256 threads. Units are single rows.
DS4_KERNEL(linear_float, 256, 2, ProductParams) {
    u32 index = 0, row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= p.products[p.count - 1].unit_end) return;
    while (row >= p.products[index].unit_end) index++;
    if (index > 0) row -= p.products[index - 1].unit_end;
    const Product &product = p.products[index];
    u32 first = blockIdx.y * 8, columns = min_u(8, p.rows - first);
    u32 group = product.group_rows == 0 ? 0 : row / product.group_rows;
    const float *x[8];
    for (u32 c = 0; c < 8; c++)
        x[c] = ptr<const float>(p.x.f) + (u64(first + min_u(c, columns - 1)) * product.x_rows + group) * p.x.stride;
    float sum[8];
    float_dot(product.w, 0, row, x, columns, sum);
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 8; c++)
        if (u32(c) == lane && lane < columns)
            ptr<float>(product.y)[u64(first + c) * product.y_stride + row] = sum[c] * product.scale;
}

struct ExpertFloatParams {
    Weight routed, shared;
    u64 x, y, ids;
    u32 x_stride, y_stride, used, rows;
    /// Whether each slot has its own row of x, or each row of the batch.
    u32 by_slot, pad;
};

/// Experts in float32: one row of the chosen expert's matrix per warp. grid: (rows of W / 8, slots); 256 threads.
DS4_KERNEL(expert_float, 256, 2, ExpertFloatParams) {
    u32 slot = blockIdx.y, slots = p.used + 1, batch_row = slot / slots, choice = slot % slots;
    const Weight &w = choice == p.used ? p.shared : p.routed;
    u32 row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= w.rows) return;
    u32 expert = choice == p.used ? 0 : ptr<const u32>(p.ids)[batch_row * p.used + choice];
    const float *x[8];
    for (u32 c = 0; c < 8; c++) x[c] = ptr<const float>(p.x) + u64(p.by_slot ? slot : batch_row) * p.x_stride;
    float sum[8];
    float_dot(w, expert, row, x, 1, sum);
    if (threadIdx.x % 32 == 0) ptr<float>(p.y)[u64(slot) * p.y_stride + row] = sum[0];
}
