// Activations into the forms that matrix products take.
#include "forms.cuh"

struct QuantizeParams {
    Rows x;
    u32 integers, halves, rows, pad;
};

/// grid: (rows * blocks of 256 columns / 8); 256 threads of eight columns each.
DS4_KERNEL(quantize, 256, 4, QuantizeParams) {
    u32 i = blockIdx.x * 256 + threadIdx.x, per_row = p.x.blocks * 32, row = i / per_row, column = i % per_row * 8;
    // Whole warps: a row has blocks of 256 columns.
    if (row >= p.rows) return;
    float v[8];
    load_eight(ptr<const float>(p.x.f) + u64(row) * p.x.stride, column, p.x.cols, v);
    emit_eight(p.x, u64(i) * 8, v, p.integers, p.halves);
}

struct NormParams {
    Rows x;
    u64 weight;
    float eps;
    u32 integers, halves, pad;
};

/// RMSNorm with a weight, in place, and the forms of the result. grid: rows; 1024 threads.
DS4_KERNEL(norm_quantize, 1024, 1, NormParams) {
    __shared__ float scratch[32];
    u32 row = blockIdx.x;
    float *x = ptr<float>(p.x.f) + u64(row) * p.x.stride;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.x.cols; i += 1024) {
        float v = x[i];
        sum = fmaf(v, v, sum);
    }
    sum = block_sum(sum, scratch, 32);
    float scale = 1.0f / sqrtf(sum / float(p.x.cols) + p.eps);
    const float *weight = ptr<const float>(p.weight);
    for (u32 i = threadIdx.x; i < p.x.blocks * 256; i += 1024) {
        float v = 0.0f;
        if (i < p.x.cols) v = x[i] * scale * weight[i];
        if (i < p.x.cols) x[i] = v;
        emit_forms(p.x, row, i, v, p.integers, p.halves);
    }
}
