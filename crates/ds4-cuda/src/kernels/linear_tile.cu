// Matrix products of large batches: 128 rows of a matrix times 128 columns of the batch per block, for Q8_0 and F16.
//
// Weights and columns both pass through shared memory, in steps of 128 columns of W (64 of float16). Warp w has rows
// 32 (w % 4) and on, and columns 64 (w / 4) and on.
#include "tile.cuh"

constexpr int kRowTiles = 8;
constexpr int kColumns = 128;
/// Bytes from one column's 128 codes to the next: lanes of half a warp read from different banks.
constexpr int kCodeStride = 160;

/// Four groups of 32.
struct IntegerStage {
    uint4 weights[kRowTiles][4][32];
    /// Of rows: [tile][row][group].
    u16 row_scales[kRowTiles][16][4];
    u8 codes[kColumns * kCodeStride];
    float scales[4][kColumns];
};

/// Two groups of float16.
struct HalfStage {
    uint4 weights[kRowTiles][2][2][32];
    uint4 hi[kColumns / 8][2][32], lo[kColumns / 8][2][32];
};

constexpr int kIntegerStages = 2 + 2 * kMoreStages;
constexpr int kHalfStages = 2 + kMoreStages;

struct TileMemory {
    union {
        IntegerStage integers[kIntegerStages];
        HalfStage halves[kHalfStages];
    };
    u32 x_row[kColumns], y_row[kColumns];
};

DS4_DEVICE void load_integers(const TileMemory &m, IntegerStage &to, const Weight &w, u32 tile, const Rows &x, u32 step) {
    u32 t = threadIdx.x, b = step / 2, half = step % 2, last = div_up(w.rows, 16) - 1;
#pragma unroll
    for (u32 i = t; i < kRowTiles * 128; i += 256) {
        u64 at = u64(min_u(tile + i / 128, last)) * w.blocks + b;
        copy_async<16>(&to.weights[i / 128][0][0] + i % 128,
                       ptr<const u8>(w.codes) + at * Layout<Q8_0>::codes + half * 2048 + i % 128 * 16);
    }
    if (t < kRowTiles * 16) {
        u64 at = u64(min_u(tile + t / 16, last)) * w.blocks + b;
        copy_async<8>(&to.row_scales[t / 16][t % 16][0], ptr<const u8>(w.scales) + at * Layout<Q8_0>::scales + t % 16 * 16 + half * 8);
    }
#pragma unroll
    for (u32 i = t; i < kColumns * 8; i += 256)
        copy_async<16>(to.codes + i / 8 * kCodeStride + i % 8 * 16,
                       ptr<const i8>(x.q) + u64(m.x_row[i / 8]) * x.blocks * 256 + step * 128 + i % 8 * 16);
#pragma unroll
    for (u32 i = t; i < kColumns * 4; i += 256)
        copy_async<4>(&to.scales[i % 4][scale_place(i / 4)],
                      ptr<const float>(x.d) + u64(m.x_row[i / 4]) * x.blocks * 8 + step * 4 + i % 4);
}

struct IntegerGroup {
    const u8 *column;
    const float *scale;

    DS4_MEMBER uint2 codes(int n) const { return *reinterpret_cast<const uint2 *>(column + n * 8 * kCodeStride); }
    DS4_MEMBER float4 scales(int n) const { return *reinterpret_cast<const float4 *>(scale + n * 8); }
};

DS4_DEVICE void use_integers(const IntegerStage &from, u32 warp, u32 lane, WarpSums<8> &sums) {
    u32 g = lane / 4, t = lane % 4, rows = warp % 4 * 2, columns = warp / 4 * 64;
    uint2 scales[2][2];
#pragma unroll
    for (int k = 0; k < 4; k++) scales[k / 2][k % 2] = *reinterpret_cast<const uint2 *>(from.row_scales[rows + k / 2][g + k % 2 * 8]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 a[2][4];
        float s[2][2];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            uint4 v = from.weights[rows + m][i][lane];
            a[m][0] = v.x, a[m][1] = v.y, a[m][2] = v.z, a[m][3] = v.w;
#pragma unroll
            for (int k = 0; k < 2; k++) s[m][k] = half_to_float(u16((i < 2 ? scales[m][k].x : scales[m][k].y) >> (i % 2 * 16)));
        }
        IntegerGroup group = {from.codes + (columns + g) * kCodeStride + i * 32 + t * 8, from.scales[i] + columns + t * 4};
        add_group<8>(a, s, group, sums.segment);
    }
}

DS4_DEVICE void load_halves(const TileMemory &m, HalfStage &to, const Weight &w, u32 tile, const Rows &x, u32 step) {
    u32 t = threadIdx.x, last = div_up(w.rows, 16) - 1;
#pragma unroll
    for (u32 i = t; i < kRowTiles * 128; i += 256)
        copy_async<16>(&to.weights[i / 128][0][0][0] + i % 128,
                       ptr<const u8>(w.codes) + u64(min_u(tile + i / 128, last)) * w.blocks * Layout<F16>::codes + u64(step) * 2048 + i % 128 * 16);
#pragma unroll
    for (u32 i = t; i < kColumns * 8; i += 256) {
        u32 column = i / 8, piece = i % 8;
        u64 at = u64(m.x_row[column]) * x.blocks * 256 + step * 64 + piece * 8;
        u32 place = column % 8 * 4 + piece % 4;
        copy_async<16>(&to.hi[column / 8][piece / 4][place], ptr<const u16>(x.hi) + at);
        copy_async<16>(&to.lo[column / 8][piece / 4][place], ptr<const u16>(x.lo) + at);
    }
}

DS4_DEVICE void use_halves(const HalfStage &from, u32 warp, u32 lane, WarpSums<8> &sums) {
    u32 rows = warp % 4 * 2, octets = warp / 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 r[2][2];
#pragma unroll
        for (int m = 0; m < 2; m++) r[m][0] = from.weights[rows + m][i][0][lane], r[m][1] = from.weights[rows + m][i][1][lane];
#pragma unroll
        for (int n = 0; n < 8; n++) {
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

/// grid: (columns / 128, units of 128 rows of all products); 256 threads.
DS4_KERNEL(linear_tile, 256, 1, ProductParams) {
    DS4_DYNAMIC_SHARED(memory);
    TileMemory &m = *reinterpret_cast<TileMemory *>(memory);
    u32 index = 0, unit = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    while (unit >= p.products[index].unit_end) index++;
    if (index > 0) unit -= p.products[index - 1].unit_end;
    const Product &product = p.products[index];
    const Weight &w = product.w;
    u32 first = blockIdx.x * kColumns, group = product.group_rows == 0 ? 0 : unit * 128 / product.group_rows;
    if (threadIdx.x < kColumns) {
        u32 column = min_u(first + threadIdx.x, p.rows - 1);
        m.x_row[threadIdx.x] = column * product.x_rows + group;
        m.y_row[threadIdx.x] = column;
    }
    sync_block();
    u32 tile = unit * kRowTiles, rows = tile + warp % 4 * 2, columns = warp / 4 * 64;
    // Warps without rows or columns help to load.
    bool idle = first + columns >= p.rows || rows * 16 >= w.rows;
    Segments s = segments_of(w.blocks);
    WarpSums<8> sums;
    sums.clear();
    u32 steps = w.blocks * (w.type == Q8_0 ? 2 : 4), per_segment = s.blocks * (w.type == Q8_0 ? 2 : 4), left = per_segment;
    auto end_of_step = [&](u32 step) {
        if (--left == 0 || step + 1 == steps) sums.fold(), left = per_segment;
    };
    if (w.type == Q8_0) {
        staged<kIntegerStages>(
            steps, [&](u32 step, u32 slot) { load_integers(m, m.integers[slot], w, tile, p.x, step); },
            [&](u32 step, u32 slot) {
                if (idle) return;
                use_integers(m.integers[slot], warp, lane, sums);
                end_of_step(step);
            });
    } else {
        staged<kHalfStages>(
            steps, [&](u32 step, u32 slot) { load_halves(m, m.halves[slot], w, tile, p.x, step); },
            [&](u32 step, u32 slot) {
                if (idle) return;
                use_halves(m.halves[slot], warp, lane, sums);
                end_of_step(step);
            });
    }
    if (idle) return;
    sums.store(w, rows, m.y_row + columns, p.rows - first - columns, ptr<float>(product.y), product.y_stride, product.scale);
}
