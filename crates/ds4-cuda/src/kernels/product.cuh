// How a product is cut so that a row's result has the same bits in every kernel: columns of the matrix come in blocks of
// 256; consecutive blocks form at most eight segments; a segment is summed from zero, and segments are added in order.
#pragma once
#include "weights.cuh"

struct Product {
    Weight w;
    u64 y;
    /// Floats from one row of y to the next.
    u32 y_stride;
    /// Where this product's units end in the launch's numbering.
    u32 unit_end;
    /// Row of x of batch row j, for rows of W from group * group_rows on: j * x_rows + group.
    u32 x_rows, group_rows;
    float scale;
    u32 pad;
};

constexpr int kMaxProducts = 7;

struct ProductParams {
    Product products[kMaxProducts];
    Rows x;
    u32 count, rows;
};

/// Experts' rows, grouped by expert. Written by `group_slots`.
struct Item {
    u32 expert, first, count, pad;
};

struct Segments {
    u32 count, blocks;
};

DS4_DEVICE Segments segments_of(u32 blocks) {
    u32 per = div_up(blocks, 8);
    return {div_up(blocks, per), per};
}

/// Which rows of x the columns of a lane are. Columns behind the last one repeat it; their results are not used.
template <int NT>
struct LaneColumns {
    u32 g[NT], even[NT], odd[NT];
};

/// Columns read from device memory, for small batches.
template <int NT>
struct GlobalColumns {
    const Rows &x;
    const LaneColumns<NT> &columns;
    u32 block, t;

    DS4_MEMBER uint2 codes(int n, int i) const {
        return load<uint2>(ptr<const i8>(x.q) + u64(columns.g[n]) * x.blocks * 256 + block * 256 + i * 32 + t * 8);
    }
    DS4_MEMBER float2 scale(int n, int i) const {
        const float *d = ptr<const float>(x.d) + block * 8 + i;
        return {d[u64(columns.even[n]) * x.blocks * 8], d[u64(columns.odd[n]) * x.blocks * 8]};
    }
    DS4_MEMBER uint4 sums(int n) const {
        return load<uint4>(ptr<const u32>(x.s) + u64(columns.g[n]) * x.blocks * 16 + block * 16 + t * 4);
    }
    DS4_MEMBER uint4 hi(int n, int i) const {
        return load<uint4>(ptr<const u16>(x.hi) + u64(columns.g[n]) * x.blocks * 256 + block * 256 + i * 32 + t * 8);
    }
    DS4_MEMBER uint4 lo(int n, int i) const {
        return load<uint4>(ptr<const u16>(x.lo) + u64(columns.g[n]) * x.blocks * 256 + block * 256 + i * 32 + t * 8);
    }
};

/// One segment of one tile, from zero.
template <u32 TYPE, int NT>
DS4_DEVICE void segment_product(const Weight &w, u32 tile, u32 first, u32 last, const u32 *grid, const Rows &x,
                                const LaneColumns<NT> &columns, float (&acc)[NT][4]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < NT; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
    for (u32 b = first; b < last; b++) {
        GlobalColumns<NT> source = {x, columns, b, u32(lane % 4)};
        u64 at = u64(tile) * w.blocks + b;
        if constexpr (TYPE == F16) {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                HalfBlock block;
                block.load_from(w, at, part, lane);
                accumulate_half<NT>(block, part, source, acc);
            }
        } else {
            BlockOf<TYPE> block;
            block.load_from(w, at, lane, grid);
            accumulate_block<TYPE, NT>(block, grid, source, acc);
        }
    }
}

/// The same segment of N tiles (of one or several matrices of the same shape) times the same octet of columns, from zero. The
/// loads of all N are on their way together.
template <u32 TYPE, int N, bool ONE>
DS4_DEVICE void segments_together(const Weight (&w)[N], const u32 (&tile)[N], u32 first, u32 last, const u32 *grid,
                                  const Rows &x, const LaneColumns<1> &columns, float (&acc)[N][1][4]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < N; k++) acc[k][0][0] = acc[k][0][1] = acc[k][0][2] = acc[k][0][3] = 0.0f;
    for (u32 b = first; b < last; b++) {
        GlobalColumns<1> source = {x, columns, b, u32(lane % 4)};
        BlockOf<TYPE> block[N];
#pragma unroll
        for (int k = 0; k < N; k++) block[k].load_from(w[k], u64(tile[k]) * w[k].blocks + b, lane, grid);
#pragma unroll
        for (int k = 0; k < N; k++) accumulate_block<TYPE, 1, ONE>(block[k], grid, source, acc[k]);
    }
}

/// A matrix of a stack.
DS4_DEVICE Weight slab_of(Weight w, u32 slab) {
    w.codes += slab * w.slab_codes, w.scales += slab * w.slab_scales, w.extra += slab * w.slab_extra;
    return w;
}

/// Starts bringing 32 rows of W into the cache: weights do not wait for the kernels ahead.
DS4_DEVICE void prefetch_unit(const Weight &w, u32 unit) {
    if (threadIdx.x != 0) return;
    u32 tiles = div_up(w.rows, 16), bytes = w.type == Q8_0 ? u32(Layout<Q8_0>::codes) : u32(Layout<F16>::codes);
    u32 count = min_u(2, tiles - unit * 2);
    prefetch_l2(ptr<const u8>(w.codes) + u64(unit) * 2 * w.blocks * bytes, min_u(count * w.blocks * bytes, 128 << 10));
}

/// All segments of two tiles (32 rows of W from `unit` * 32), shared among the eight warps of a block: the sums of
/// segments in `part` [tile 2][segment 8][column NT * 8][row 16 + 1]. `one`: only column 0 is wanted.
template <u32 TYPE, int NT>
DS4_DEVICE void unit_segments(const Weight &w, u32 unit, const u32 *grid, const Rows &x, const LaneColumns<NT> &columns,
                              float *part, [[maybe_unused]] bool one = false) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 warp = threadIdx.x / 32, tiles = div_up(w.rows, 16);
    Segments s = segments_of(w.blocks);
    if constexpr (NT == 1 && TYPE != Q8_0 && TYPE != F16) {
        // Small formats leave registers for both tiles; a tile that is none repeats the first.
        if (warp >= s.count) return;
        float acc[2][1][4];
        const Weight both[2] = {w, w};
        const u32 tile[2] = {unit * 2, min_u(unit * 2 + 1, tiles - 1)};
        u32 first = warp * s.blocks;
        u32 last = min_u(first + s.blocks, w.blocks);
        if (one) segments_together<TYPE, 2, true>(both, tile, first, last, grid, x, columns, acc);
        else segments_together<TYPE, 2, false>(both, tile, first, last, grid, x, columns, acc);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float *to = part + (k * 8 + warp) * (8 * 17);
            to[2 * t * 17 + g] = acc[k][0][0], to[(2 * t + 1) * 17 + g] = acc[k][0][1];
            to[2 * t * 17 + g + 8] = acc[k][0][2], to[(2 * t + 1) * 17 + g + 8] = acc[k][0][3];
        }
    } else {
        for (u32 item = warp; item < 2 * s.count; item += 8) {
            u32 tile = item / s.count, segment = item % s.count;
            if (unit * 2 + tile >= tiles) continue;
            float acc[NT][4];
            u32 first = segment * s.blocks;
            segment_product<TYPE, NT>(w, unit * 2 + tile, first, min_u(first + s.blocks, w.blocks), grid, x, columns, acc);
            float *to = part + (tile * 8 + segment) * (NT * 8 * 17);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                to[(n * 8 + 2 * t) * 17 + g] = acc[n][0], to[(n * 8 + 2 * t + 1) * 17 + g] = acc[n][1];
                to[(n * 8 + 2 * t) * 17 + g + 8] = acc[n][2], to[(n * 8 + 2 * t + 1) * 17 + g + 8] = acc[n][3];
            }
        }
    }
}

/// The sum of the segments of one result.
template <int NT>
DS4_DEVICE float sum_segments(const float *part, u32 segments, u32 row, u32 column) {
    const float *from = part + row / 16 * 8 * (NT * 8 * 17) + column * 17 + row % 16;
    float sum = from[0];
    for (u32 s = 1; s < segments; s++) sum += from[s * (NT * 8 * 17)];
    return sum;
}

template <int NT>
constexpr int kPartFloats = 2 * 8 * NT * 8 * 17;
