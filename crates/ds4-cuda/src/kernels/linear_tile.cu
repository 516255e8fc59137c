// Matrix products of large batches: 128 rows of a matrix times 128 columns of the batch per block, for Q8_0 and F16.
//
// Weights and columns both pass through shared memory, in steps of 128 columns of W (64 of float16). Warp w has rows
// 32 (w % 4) and on, and columns 32 (w / 4) and on.
#include "linear_large.cuh"

constexpr int kWarpColumns = 32;
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

constexpr int kIntegerStages = 2 + 2 * kMoreStages;
constexpr int kHalfStages = 2 + kMoreStages;

struct TileMemory {
    union {
        IntegerStage integers[kIntegerStages];
        HalfStage halves[kHalfStages];
    };
    u32 x_row[kColumns], y_row[kColumns];
};

/// Where a thread's next copies come from; each step is behind the one before.
struct Sources {
    /// Of the first of a thread's two tiles, and how many it has.
    const u8 *weights;
    u64 tile_stride;
    int tiles;
    const u8 *row_scales;
    /// int8 codes and their scales, or both float16; the thread's columns are so many bytes from there.
    const u8 *codes, *others;
    u32 columns[2], scale_column;

    DS4_MEMBER void start(const TileMemory &m, const Weight &w, u32 tile, const Rows &x, bool integers) {
        u32 t = threadIdx.x, tiles_left = div_up(w.rows, 16) - tile, tile_bytes = integers ? u32(Layout<Q8_0>::codes) : u32(Layout<F16>::codes);
        weights = ptr<const u8>(w.codes) + u64(tile + t / 128) * w.blocks * tile_bytes + t % 128 * 16;
        tile_stride = 4 * u64(w.blocks) * tile_bytes;
        tiles = (int(tiles_left) - int(t / 128) + 3) / 4;
        u32 row = min_u(t / 16, tiles_left - 1);
        row_scales = ptr<const u8>(w.scales) + u64(tile + row) * w.blocks * Layout<Q8_0>::scales + t % 16 * 16;
        codes = ptr<const u8>(integers ? x.q : x.hi) + t % 8 * 16;
        others = integers ? ptr<const u8>(x.d) + t % 4 * 4 : ptr<const u8>(x.lo) + t % 8 * 16;
#pragma unroll
        for (int k = 0; k < 2; k++) columns[k] = m.x_row[t / 8 + 64 * k] * x.blocks * (integers ? 256 : 512);
        scale_column = m.x_row[t / 4] * x.blocks * 32;
    }
};

DS4_DEVICE void load_integers(IntegerStage &to, Sources &from, u32 step) {
    u32 t = threadIdx.x;
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (k < from.tiles) copy_async<16>(&to.weights[t / 128 + 4 * k][0][0] + t % 128, from.weights + k * from.tile_stride);
    from.weights += 2048;
    if (t < kRowTiles * 16) copy_async<8>(&to.row_scales[t / 16][t % 16][0], from.row_scales);
    from.row_scales += step % 2 == 0 ? 8 : Layout<Q8_0>::scales - 8;
#pragma unroll
    for (int k = 0; k < 2; k++) copy_async<16>(to.codes + (t / 8 + 64 * k) * kCodeStride + t % 8 * 16, from.codes + from.columns[k]);
    from.codes += 128;
    copy_async<4>(&to.scales[t % 4][scale_place(t / 4)], from.others + from.scale_column);
    from.others += 16;
}

struct IntegerGroup {
    const u8 *column;
    const float *scale;

    DS4_MEMBER uint2 codes(int n) const { return *reinterpret_cast<const uint2 *>(column + n * 8 * kCodeStride); }
    DS4_MEMBER float4 scales(int n) const { return *reinterpret_cast<const float4 *>(scale + n * 8); }
};

DS4_DEVICE void use_integers(const IntegerStage &from, u32 warp, u32 lane, WarpSums<2, 4> &sums) {
    u32 g = lane / 4, t = lane % 4, rows = warp % 4 * 2, columns = warp / 4 * kWarpColumns;
    uint2 scales[2][2];
#pragma unroll
    for (int k = 0; k < 4; k++) scales[k / 2][k % 2] = load<uint2>(from.row_scales[rows + k / 2][g + k % 2 * 8]);
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
        add_group<2, 4>(a, s, group, sums.segment);
    }
}

DS4_DEVICE void load_halves(HalfStage &to, Sources &from) {
    u32 t = threadIdx.x;
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (k < from.tiles) copy_async<16>(&to.weights[t / 128 + 4 * k][0][0][0] + t % 128, from.weights + k * from.tile_stride);
    from.weights += 2048;
    u32 octet = t / 64, group = t % 8 / 4, place = t / 8 % 8 * 4 + t % 4;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        copy_async<16>(&to.hi[octet + 8 * k][group][place], from.codes + from.columns[k]);
        copy_async<16>(&to.lo[octet + 8 * k][group][place], from.others + from.columns[k]);
    }
    from.codes += 128, from.others += 128;
}

/// grid: (columns / 128, units of 128 rows of all products); 512 threads.
DS4_KERNEL(linear_tile, 512, 1, ProductParams) {
    DS4_DYNAMIC_SHARED(memory);
    TileMemory &m = *reinterpret_cast<TileMemory *>(memory);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    LargeUnit unit = note_columns(m, p);
    const Product &product = unit.product;
    const Weight &w = product.w;
    sync_block();
    u32 first = unit.first, tile = unit.tile, rows = tile + warp % 4 * 2, columns = warp / 4 * kWarpColumns;
    // Warps without rows or columns help to load.
    bool idle = first + columns >= p.rows || rows * 16 >= w.rows;
    Segments s = segments_of(w.blocks);
    Sources from;
    from.start(m, w, tile, p.x, w.type == Q8_0);
    WarpSums<2, 4> sums;
    sums.clear();
    u32 steps = w.blocks * (w.type == Q8_0 ? 2 : 4), per_segment = s.blocks * (w.type == Q8_0 ? 2 : 4), left = per_segment;
    auto end_of_step = [&](u32 step) {
        if (--left == 0 || step + 1 == steps) sums.fold(), left = per_segment;
    };
    if (w.type == Q8_0) {
        staged<kIntegerStages>(
            steps, [&](u32 step, u32 slot) { load_integers(m.integers[slot], from, step); },
            [&](u32 step, u32 slot) {
                if (idle) return;
                use_integers(m.integers[slot], warp, lane, sums);
                end_of_step(step);
            });
    } else {
        staged<kHalfStages>(
            steps, [&](u32, u32 slot) { load_halves(m.halves[slot], from); },
            [&](u32 step, u32 slot) {
                if (idle) return;
                use_halves(m.halves[slot], warp, lane, sums);
                end_of_step(step);
            });
    }
    if (idle) return;
    sums.store(w, rows, m.y_row + columns, p.rows - first - columns, ptr<float>(product.y), product.y_stride, product.scale);
}
