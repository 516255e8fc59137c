// Matrix products of large batches where int8 matrix instructions are slow: 128 rows of a matrix times 128 columns per block, for
// Q8_0 and F16. The integers of Q8_0 and of the columns are multiplied as float16, exactly.
//
// Weights of Q8_0 become float16 on their way into shared memory. Warp w has rows 32 (w % 4) and on, and columns 64 (w / 4) and on.
#include "linear_large.cuh"

constexpr int kStages = 3;

/// Four groups of 32.
struct CodeStage {
    uint4 codes[kColumns / 8][4][32];
    float scales[4][kColumns];
    /// Of rows: [tile][row][group].
    u16 row_scales[kRowTiles][16][4];
};

struct WideMemory {
    union {
        struct {
            CodeStage stage[kStages];
            /// Four groups: operands of the two halves of each.
            uint4 weights[2][kRowTiles][4][2][32];
        } codes;
        HalfStage halves[kStages];
    };
    u32 x_row[kColumns], y_row[kColumns];
};

/// Where a thread's next copies come from; each step is behind the one before.
struct Sources {
    /// Of the first of a thread's tiles (every second one), and how many it has.
    const u8 *weights;
    u64 tile_stride;
    int tiles;
    const u8 *row_scales;
    /// Codes and their scales, or both float16; the thread's columns are so many bytes from there.
    const u8 *codes, *others;
    u32 columns[4], scale_columns[2];

    DS4_MEMBER void start(const WideMemory &m, const Weight &w, u32 tile, const Rows &x, bool integers) {
        u32 t = threadIdx.x, tiles_left = div_up(w.rows, 16) - tile;
        u32 tile_bytes = integers ? u32(Layout<Q8_0>::codes) : u32(Layout<F16>::codes);
        weights = ptr<const u8>(w.codes) + u64(tile + t / 128) * w.blocks * tile_bytes + t % 128 * 16;
        tile_stride = 2 * u64(w.blocks) * tile_bytes;
        tiles = (int(tiles_left) - int(t / 128) + 1) / 2;
        u32 row = min_u(t / 16, tiles_left - 1);
        row_scales = ptr<const u8>(w.scales) + u64(tile + row) * w.blocks * Layout<Q8_0>::scales + t % 16 * 16;
        // Threads have pieces of eight float16: sixteen per column of codes, eight of the other two.
        codes = ptr<const u8>(integers ? x.wide : x.hi) + t % 8 * 16;
        others = integers ? ptr<const u8>(x.d) + t % 4 * 4 : ptr<const u8>(x.lo) + t % 8 * 16;
#pragma unroll
        for (int k = 0; k < 4; k++) columns[k] = m.x_row[t / 8 + 32 * k] * x.blocks * 512;
#pragma unroll
        for (int k = 0; k < 2; k++) scale_columns[k] = m.x_row[t / 4 + 64 * k] * x.blocks * 32;
    }
    /// Codes and scales of the columns.
    DS4_MEMBER void load_codes(CodeStage &to, u32 step) {
        u32 t = threadIdx.x, octet = t / 64, group = t % 8 / 4, place = t / 8 % 8 * 4 + t % 4;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            copy_async<16>(&to.codes[octet + 4 * k][group][place], codes + columns[k]);
            copy_async<16>(&to.codes[octet + 4 * k][group + 2][place], codes + columns[k] + 128);
        }
        codes += 256;
        if (t < kRowTiles * 16) copy_async<8>(&to.row_scales[t / 16][t % 16][0], row_scales);
        row_scales += step % 2 == 0 ? 8 : Layout<Q8_0>::scales - 8;
#pragma unroll
        for (int k = 0; k < 2; k++) copy_async<4>(&to.scales[t % 4][scale_place(t / 4 + 64 * k)], others + scale_columns[k]);
        others += 16;
    }
    /// Four groups of int8 weights into registers, later to be widened.
    DS4_MEMBER void load_weights(uint4 (&v)[4]) {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < tiles) v[k] = load_stream(weights + k * tile_stride);
        weights += 2048;
    }
    DS4_MEMBER void load_halves(HalfStage &to) {
        u32 t = threadIdx.x, octet = t / 64, group = t % 8 / 4, place = t / 8 % 8 * 4 + t % 4;
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < tiles) copy_async<16>(&to.weights[t / 128 + 2 * k][0][0][0] + t % 128, weights + k * tile_stride);
        weights += 2048;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            copy_async<16>(&to.hi[octet + 4 * k][group][place], codes + columns[k]);
            copy_async<16>(&to.lo[octet + 4 * k][group][place], others + columns[k]);
        }
        codes += 128, others += 128;
    }
};

DS4_DEVICE void store_weights(uint4 (&to)[kRowTiles][4][2][32], const uint4 (&v)[4]) {
    u32 t = threadIdx.x, group = t % 128 / 32, lane = t % 32;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        u32 bytes[4] = {v[k].x, v[k].y, v[k].z, v[k].w}, wide[8];
        widen(bytes, wide);
        to[t / 128 + 2 * k][group][0][lane] = {wide[0], wide[1], wide[2], wide[3]};
        to[t / 128 + 2 * k][group][1][lane] = {wide[4], wide[5], wide[6], wide[7]};
    }
}

DS4_DEVICE void use_codes(const CodeStage &from, const uint4 (&weights)[kRowTiles][4][2][32], u32 warp, u32 lane, WarpSums<2, 8> &sums) {
    u32 g = lane / 4, t = lane % 4, rows = warp % 4 * 2, columns = warp / 4 * 64;
    uint2 scales[2][2];
#pragma unroll
    for (int k = 0; k < 4; k++) scales[k / 2][k % 2] = load<uint2>(from.row_scales[rows + k / 2][g + k % 2 * 8]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 a[2][8];
        float s[2][2];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            uint4 low = weights[rows + m][i][0][lane], high = weights[rows + m][i][1][lane];
            a[m][0] = low.x, a[m][1] = low.y, a[m][2] = low.z, a[m][3] = low.w;
            a[m][4] = high.x, a[m][5] = high.y, a[m][6] = high.z, a[m][7] = high.w;
#pragma unroll
            for (int k = 0; k < 2; k++) s[m][k] = half_to_float(u16((i < 2 ? scales[m][k].x : scales[m][k].y) >> (i % 2 * 16)));
        }
        WideGroup<4> group = {&from.codes[columns / 8][i][lane], from.scales[i] + columns + t * 4};
        add_wide_group<2, 8>(a, s, group, sums.segment);
    }
}

/// grid: (columns / 128, units of 128 rows of all products); 256 threads.
DS4_KERNEL(linear_wide, 256, 1, ProductParams) {
    DS4_DYNAMIC_SHARED(memory);
    WideMemory &m = *reinterpret_cast<WideMemory *>(memory);
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    LargeUnit unit = note_columns(m, p);
    const Product &product = unit.product;
    const Weight &w = product.w;
    sync_block();
    u32 first = unit.first, tile = unit.tile, rows = tile + warp % 4 * 2, columns = warp / 4 * 64;
    // Warps without rows or columns help to load.
    bool idle = first + columns >= p.rows || rows * 16 >= w.rows;
    Segments s = segments_of(w.blocks);
    Sources from;
    from.start(m, w, tile, p.x, w.type == Q8_0);
    WarpSums<2, 8> sums;
    sums.clear();
    u32 steps = w.blocks * (w.type == Q8_0 ? 2 : 4), per_segment = s.blocks * (w.type == Q8_0 ? 2 : 4), left = per_segment;
    auto end_of_step = [&](u32 step) {
        if (--left == 0 || step + 1 == steps) sums.fold(), left = per_segment;
    };
    if (w.type == Q8_0) {
        uint4 next[4] = {};
        from.load_weights(next);
        store_weights(m.codes.weights[0], next);
        if (steps > 1) from.load_weights(next);
        staged<kStages>(
            steps, [&](u32 step, u32 slot) { from.load_codes(m.codes.stage[slot], step); },
            [&](u32 step, u32 slot) {
                // The other half was read in the step before.
                if (step + 1 < steps) store_weights(m.codes.weights[(step + 1) % 2], next);
                if (step + 2 < steps) from.load_weights(next);
                if (idle) return;
                use_codes(m.codes.stage[slot], m.codes.weights[step % 2], warp, lane, sums);
                end_of_step(step);
            });
    } else {
        staged<kStages>(
            steps, [&](u32, u32 slot) { from.load_halves(m.halves[slot]); },
            [&](u32 step, u32 slot) {
                if (idle) return;
                use_halves(m.halves[slot], warp, lane, sums);
                end_of_step(step);
            });
    }
    if (idle) return;
    sums.store(w, rows, m.y_row + columns, p.rows - first - columns, ptr<float>(product.y), product.y_stride, product.scale);
}
