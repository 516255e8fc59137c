// Matrix products of large batches: 128 rows of a matrix times 64 columns of the batch per block.
//
// Each of the eight warps has 16 rows; its weights go from memory straight into the matrix instruction's registers, the
// columns' values through shared memory. Sums are cut as in `linear.cu`, so a column has the same bits here and there.
#include "product.cuh"

constexpr int kColumns = 64;
constexpr int kOctets = kColumns / 8;
/// Lanes' pieces of one octet and group, padded against bank conflicts.
constexpr int kPieces = 34;

struct TileMemory {
    u32 x_row[kColumns], y_row[kColumns];
    union {
        struct {
            uint2 codes[kOctets * 8 * kPieces];
            float d[kOctets * 8 * 8];
            float s[kOctets * 8 * 16];
        } block;
        struct {
            uint4 hi[kOctets * 2 * kPieces], lo[kOctets * 2 * kPieces];
        } half;
    } x;
};

struct TileColumns {
    const TileMemory &m;
    int lane;

    DS4_MEMBER uint2 codes(int n, int i) const { return m.x.block.codes[(n * 8 + i) * kPieces + lane]; }
    DS4_MEMBER float2 scale(int n, int i) const {
        return *reinterpret_cast<const float2 *>(&m.x.block.d[(n * 8 + i) * 8 + lane % 4 * 2]);
    }
    DS4_MEMBER float4 sums(int n, int i) const {
        return *reinterpret_cast<const float4 *>(&m.x.block.s[(n * 8 + i) * 16 + lane % 4 * 4]);
    }
};

/// Brings one block of 256 columns of W's input into shared memory.
DS4_DEVICE void stage_block(TileMemory &m, const Rows &x, u32 b, bool sums) {
    for (u32 i = threadIdx.x; i < kColumns * 32; i += 256) {
        u32 column = i / 32, piece = i % 32, group = piece / 4, t = piece % 4;
        m.x.block.codes[(column / 8 * 8 + group) * kPieces + column % 8 * 4 + t] =
            load<uint2>(ptr<const i8>(x.q) + u64(m.x_row[column]) * x.blocks * 256 + b * 256 + piece * 8);
    }
    for (u32 i = threadIdx.x; i < kColumns * 8; i += 256) {
        u32 column = i / 8, group = i % 8;
        m.x.block.d[(column / 8 * 8 + group) * 8 + column % 8] =
            ptr<const float>(x.d)[u64(m.x_row[column]) * x.blocks * 8 + b * 8 + group];
    }
    if (!sums) return;
    for (u32 i = threadIdx.x; i < kColumns * 8; i += 256) {
        u32 column = i / 8, group = i % 8;
        float2 s = load<float2>(ptr<const float>(x.s) + u64(m.x_row[column]) * x.blocks * 16 + b * 16 + group * 2);
        float *to = &m.x.block.s[(column / 8 * 8 + group) * 16 + column % 8 * 2];
        to[0] = s.x, to[1] = s.y;
    }
}

/// Brings two groups of float16 columns into shared memory.
DS4_DEVICE void stage_halves(TileMemory &m, const Rows &x, u32 group) {
    for (u32 i = threadIdx.x; i < kColumns * 8; i += 256) {
        u32 column = i / 8, piece = i % 8;
        u64 from = u64(m.x_row[column]) * x.blocks * 256 + group * 32 + piece * 8;
        u32 to = (column / 8 * 2 + piece / 4) * kPieces + column % 8 * 4 + piece % 4;
        m.x.half.hi[to] = load<uint4>(ptr<const u16>(x.hi) + from);
        m.x.half.lo[to] = load<uint4>(ptr<const u16>(x.lo) + from);
    }
}

DS4_DEVICE void fold(float (&total)[kOctets][4], float (&acc)[kOctets][4], bool first) {
#pragma unroll
    for (int n = 0; n < kOctets; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            total[n][i] = first ? acc[n][i] : total[n][i] + acc[n][i];
            acc[n][i] = 0.0f;
        }
}

template <u32 TYPE>
DS4_DEVICE void tile_sums(TileMemory &m, const Weight &w, u32 tile, const u32 *grid, const Rows &x,
                          float (&total)[kOctets][4]) {
    int lane = threadIdx.x % 32;
    bool active = tile < div_up(w.rows, 16);
    Segments s = segments_of(w.blocks);
    float acc[kOctets][4] = {};
    for (u32 b = 0; b < w.blocks; b++) {
        if constexpr (TYPE == F16) {
            for (u32 pair = 0; pair < 4; pair++) {
                sync_block();
                stage_halves(m, x, b * 8 + pair * 2);
                sync_block();
                if (!active) continue;
                const u8 *c = ptr<const u8>(w.codes) + (u64(tile) * w.blocks + b) * Layout<F16>::codes + pair * 2048 + lane * 16;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint4 r0 = load_stream(c + i * 1024), r1 = load_stream(c + i * 1024 + 512);
#pragma unroll
                    for (int n = 0; n < kOctets; n++) {
                        uint4 hi = m.x.half.hi[(n * 2 + i) * kPieces + lane], lo = m.x.half.lo[(n * 2 + i) * kPieces + lane];
                        mma_f16(acc[n], r0.x, r1.x, r0.y, r1.y, hi.x, hi.y);
                        mma_f16(acc[n], r0.x, r1.x, r0.y, r1.y, lo.x, lo.y);
                        mma_f16(acc[n], r0.z, r1.z, r0.w, r1.w, hi.z, hi.w);
                        mma_f16(acc[n], r0.z, r1.z, r0.w, r1.w, lo.z, lo.w);
                    }
                }
            }
        } else {
            BlockOf<TYPE> block;
            if (active) block.load_from(w, u64(tile) * w.blocks + b, lane, grid);
            sync_block();
            stage_block(m, x, b, BlockOf<TYPE>::minima);
            sync_block();
            if (active) {
                TileColumns source = {m, lane};
                accumulate_block<TYPE, kOctets>(block, grid, source, acc);
            }
        }
        if ((b + 1) % s.blocks == 0 || b + 1 == w.blocks) fold(total, acc, b < s.blocks);
    }
}

DS4_DEVICE void tile_store(const TileMemory &m, const Weight &w, u32 tile, u32 count, float *y, u32 stride, float scale,
                           const float (&total)[kOctets][4]) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 row = tile * 16 + g;
#pragma unroll
    for (int n = 0; n < kOctets; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 column = n * 8 + 2 * t + i % 2, out = row + i / 2 * 8;
            if (column < count && out < w.rows) y[u64(m.y_row[column]) * stride + out] = total[n][i] * scale;
        }
}

/// grid: (columns / 64, units of 128 rows of all products); 256 threads. For Q8_0 and F16.
DS4_KERNEL(linear_tile, 256, 2, ProductParams) {
    __shared__ TileMemory m;
    u32 index = 0, unit = blockIdx.y;
    while (unit >= p.products[index].unit_end) index++;
    if (index > 0) unit -= p.products[index - 1].unit_end;
    const Product &product = p.products[index];
    u32 first = blockIdx.x * kColumns, group = product.group_rows == 0 ? 0 : unit * 128 / product.group_rows;
    if (threadIdx.x < kColumns) {
        u32 column = min_u(first + threadIdx.x, p.rows - 1);
        m.x_row[threadIdx.x] = column * product.x_rows + group;
        m.y_row[threadIdx.x] = column;
    }
    u32 tile = unit * 8 + threadIdx.x / 32;
    float total[kOctets][4] = {};
    switch (product.w.type) {
        case Q8_0: tile_sums<Q8_0>(m, product.w, tile, nullptr, p.x, total); break;
        default: tile_sums<F16>(m, product.w, tile, nullptr, p.x, total); break;
    }
    tile_store(m, product.w, tile, min_u(kColumns, p.rows - first), ptr<float>(product.y), product.y_stride,
               product.scale, total);
}

struct ExpertTileParams {
    Weight routed, shared;
    Rows x;
    u64 y, items, item_count, list;
    u32 y_stride, n_expert, slots, by_slot;
};

DS4_DEVICE void expert_columns(TileMemory &m, const ExpertTileParams &p, const Item &item) {
    if (threadIdx.x < kColumns) {
        u32 slot = ptr<const u32>(p.list)[item.first + min_u(threadIdx.x, item.count - 1)];
        m.x_row[threadIdx.x] = p.by_slot ? slot : slot / p.slots;
        m.y_row[threadIdx.x] = slot;
    }
}

template <u32 TYPE>
DS4_DEVICE void expert_tile(TileMemory &m, const ExpertTileParams &p, const u32 *grid) {
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    expert_columns(m, p, item);
    bool is_shared = item.expert == p.n_expert;
    u32 tile = blockIdx.x * 8 + threadIdx.x / 32;
    float total[kOctets][4] = {};
    if (is_shared) {
        if (p.shared.type == Q8_0) tile_sums<Q8_0>(m, p.shared, tile, grid, p.x, total);
        else tile_sums<F16>(m, p.shared, tile, grid, p.x, total);
        tile_store(m, p.shared, tile, item.count, ptr<float>(p.y), p.y_stride, 1.0f, total);
    } else {
        Weight w = slab_of(p.routed, item.expert);
        tile_sums<TYPE>(m, w, tile, grid, p.x, total);
        tile_store(m, w, tile, item.count, ptr<float>(p.y), p.y_stride, 1.0f, total);
    }
}

/// Experts by storage type of the routed ones. grid: (units of 128 rows, items); 256 threads.
DS4_KERNEL(expert_tile_q8_0, 256, 2, ExpertTileParams) {
    __shared__ TileMemory m;
    expert_tile<Q8_0>(m, p, nullptr);
}
DS4_KERNEL(expert_tile_q2_k, 256, 2, ExpertTileParams) {
    __shared__ TileMemory m;
    expert_tile<Q2_K>(m, p, nullptr);
}
DS4_KERNEL(expert_tile_q4_k, 256, 2, ExpertTileParams) {
    __shared__ TileMemory m;
    expert_tile<Q4_K>(m, p, nullptr);
}
DS4_KERNEL(expert_tile_mxfp4, 256, 2, ExpertTileParams) {
    __shared__ TileMemory m;
    expert_tile<MXFP4>(m, p, nullptr);
}
DS4_KERNEL(expert_tile_iq2_xxs, 256, 2, ExpertTileParams) {
    __shared__ TileMemory m;
    __shared__ u32 grid[kGridWords];
    load_grid(grid);
    expert_tile<IQ2_XXS>(m, p, grid);
}
