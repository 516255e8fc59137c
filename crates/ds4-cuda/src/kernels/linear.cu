// Matrix products of small batches: every weight is read once, all columns of the batch at a time.
//
// A block of eight warps computes 32 rows of a matrix; the warps share the matrix's segments. Several matrices that take the
// same input are one launch.
#include "product.cuh"

template <int NT>
DS4_DEVICE void linear_unit(const ProductParams &p, float *part) {
    u32 index = 0, unit = blockIdx.x;
    while (unit >= p.products[index].unit_end) index++;
    if (index > 0) unit -= p.products[index - 1].unit_end;
    const Product &product = p.products[index];
    prefetch_unit(product.w, unit);
    wait_for_inputs();

    u32 first = blockIdx.y * NT * 8, group = product.group_rows == 0 ? 0 : unit * 32 / product.group_rows;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    LaneColumns<NT> columns;
    u32 last = p.rows - 1;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        columns.g[n] = min_u(first + n * 8 + g, last) * product.x_rows + group;
        columns.even[n] = min_u(first + n * 8 + 2 * t, last) * product.x_rows + group;
        columns.odd[n] = min_u(first + n * 8 + 2 * t + 1, last) * product.x_rows + group;
    }
    switch (product.w.type) {
        case Q8_0: unit_segments<Q8_0, NT>(product.w, unit, nullptr, p.x, columns, part); break;
        default: unit_segments<F16, NT>(product.w, unit, nullptr, p.x, columns, part); break;
    }
    sync_block();
    u32 segments = segments_of(product.w.blocks).count, row = threadIdx.x % 32;
    for (u32 column = threadIdx.x / 32; column < NT * 8; column += 8) {
        u32 out = unit * 32 + row;
        if (first + column < p.rows && out < product.w.rows)
            ptr<float>(product.y)[u64(first + column) * product.y_stride + out] =
                sum_segments<NT>(part, segments, row, column) * product.scale;
    }
}

/// grid: (units of 32 rows of all products, columns / 8); 256 threads. For Q8_0 and F16.
DS4_KERNEL_EARLY(linear_8, 256, 2, ProductParams) {
    __shared__ float part[kPartFloats<1>];
    linear_unit<1>(p, part);
}

/// As `linear_8`, 16 columns at a time.
DS4_KERNEL_EARLY(linear_16, 256, 2, ProductParams) {
    __shared__ float part[kPartFloats<2>];
    linear_unit<2>(p, part);
}
