// Matrix products of large batches: 128 rows of a matrix times 64 columns of the batch per block.
//
// Each of the eight warps has 16 rows; its weights go from memory straight into the matrix instruction's registers, the
// columns' values through shared memory. Sums are cut as in `linear.cu`, so a column has the same bits here and there.
#include "product.cuh"

constexpr int kColumns = 64;
constexpr int kOctets = kColumns / 8;
/// Lanes' pieces of one octet and group, padded against bank conflicts.
constexpr int kPieces = 34;

/// What one step reads of the columns: a block of 256 int8 codes, or two groups of float16.
union Stage {
    struct {
        uint2 codes[kOctets * 8 * kPieces];
        float d[kOctets * 8 * 8];
        float s[kOctets * 8 * 16];
    } block;
    struct {
        uint4 hi[kOctets * 2 * kPieces], lo[kOctets * 2 * kPieces];
    } half;
};

struct TileMemory {
    /// One is filled while the other is used.
    Stage stage[2];
    /// Sums of finished segments, by accumulator and thread.
    float total[kOctets * 4][256];
    u32 grid[kGridWords];
    u32 x_row[kColumns], y_row[kColumns];
};

struct TileColumns {
    const Stage &x;
    int lane;

    DS4_MEMBER uint2 codes(int n, int i) const { return x.block.codes[(n * 8 + i) * kPieces + lane]; }
    DS4_MEMBER float2 scale(int n, int i) const {
        return *reinterpret_cast<const float2 *>(&x.block.d[(n * 8 + i) * 8 + lane % 4 * 2]);
    }
    DS4_MEMBER float4 sums(int n, int i) const {
        return *reinterpret_cast<const float4 *>(&x.block.s[(n * 8 + i) * 16 + lane % 4 * 4]);
    }
};

/// Starts bringing one block of 256 columns of W's input into shared memory.
DS4_DEVICE void stage_block(TileMemory &m, Stage &to, const Rows &x, u32 b, bool sums) {
    for (u32 i = threadIdx.x; i < kColumns * 32; i += 256) {
        u32 column = i / 32, piece = i % 32, group = piece / 4, t = piece % 4;
        copy_async<8>(&to.block.codes[(column / 8 * 8 + group) * kPieces + column % 8 * 4 + t],
                      ptr<const i8>(x.q) + u64(m.x_row[column]) * x.blocks * 256 + b * 256 + piece * 8);
    }
    for (u32 i = threadIdx.x; i < kColumns * 8; i += 256) {
        u32 column = i / 8, group = i % 8;
        copy_async<4>(&to.block.d[(column / 8 * 8 + group) * 8 + column % 8],
                      ptr<const float>(x.d) + u64(m.x_row[column]) * x.blocks * 8 + b * 8 + group);
        if (sums)
            copy_async<8>(&to.block.s[(column / 8 * 8 + group) * 16 + column % 8 * 2],
                          ptr<const float>(x.s) + u64(m.x_row[column]) * x.blocks * 16 + b * 16 + group * 2);
    }
}

/// The same for two groups of float16 columns.
DS4_DEVICE void stage_halves(TileMemory &m, Stage &to, const Rows &x, u32 group) {
    for (u32 i = threadIdx.x; i < kColumns * 8; i += 256) {
        u32 column = i / 8, piece = i % 8;
        u64 from = u64(m.x_row[column]) * x.blocks * 256 + group * 32 + piece * 8;
        u32 at = (column / 8 * 2 + piece / 4) * kPieces + column % 8 * 4 + piece % 4;
        copy_async<16>(&to.half.hi[at], ptr<const u16>(x.hi) + from);
        copy_async<16>(&to.half.lo[at], ptr<const u16>(x.lo) + from);
    }
}

/// Adds a segment to the sums before it.
DS4_DEVICE void fold(TileMemory &m, float (&acc)[kOctets][4], bool first) {
#pragma unroll
    for (int n = 0; n < kOctets; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &total = m.total[n * 4 + i][threadIdx.x];
            total = first ? acc[n][i] : total + acc[n][i];
            acc[n][i] = 0.0f;
        }
}

/// Sums of int8 products of one tile, in `m.total`.
template <u32 TYPE>
DS4_DEVICE void tile_integers(TileMemory &m, const Weight &w, u32 tile, const Rows &x, int octets) {
    int lane = threadIdx.x % 32;
    bool active = tile < div_up(w.rows, 16);
    Segments s = segments_of(w.blocks);
    float acc[kOctets][4] = {};
    // Small formats leave registers to load the next block early.
    constexpr bool kAhead = TYPE != Q8_0;
    BlockOf<TYPE> block, next;
    if (kAhead && active) next.load_from(w, u64(tile) * w.blocks, lane, m.grid);
    stage_block(m, m.stage[0], x, 0, BlockOf<TYPE>::minima);
    for (u32 b = 0; b < w.blocks; b++) {
        copies_done();
        sync_block();
        if (active && !kAhead) block.load_from(w, u64(tile) * w.blocks + b, lane, m.grid);
        if (b + 1 < w.blocks) stage_block(m, m.stage[(b + 1) % 2], x, b + 1, BlockOf<TYPE>::minima);
        if (!active) continue;
        if (kAhead) {
            block = next;
            if (b + 1 < w.blocks) next.load_from(w, u64(tile) * w.blocks + b + 1, lane, m.grid);
        }
        TileColumns source = {m.stage[b % 2], lane};
        accumulate_block<TYPE, kOctets>(block, m.grid, source, acc, octets);
        if ((b + 1) % s.blocks == 0 || b + 1 == w.blocks) fold(m, acc, b < s.blocks);
    }
}

/// Sums of float16 products of one tile, in `m.total`.
DS4_DEVICE void tile_halves(TileMemory &m, const Weight &w, u32 tile, const Rows &x) {
    int lane = threadIdx.x % 32;
    bool active = tile < div_up(w.rows, 16);
    Segments s = segments_of(w.blocks);
    float acc[kOctets][4] = {};
    u32 steps = w.blocks * 4;
    stage_halves(m, m.stage[0], x, 0);
    for (u32 step = 0; step < steps; step++) {
        copies_done();
        sync_block();
        uint4 r[2][2];
        const u8 *c = ptr<const u8>(w.codes) + u64(tile) * w.blocks * Layout<F16>::codes + u64(step) * 2048 + lane * 16;
        if (active)
            for (int i = 0; i < 2; i++) r[i][0] = load_stream(c + i * 1024), r[i][1] = load_stream(c + i * 1024 + 512);
        if (step + 1 < steps) stage_halves(m, m.stage[(step + 1) % 2], x, (step + 1) * 2);
        if (!active) continue;
        const Stage &from = m.stage[step % 2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int n = 0; n < kOctets; n++) {
                uint4 hi = from.half.hi[(n * 2 + i) * kPieces + lane], lo = from.half.lo[(n * 2 + i) * kPieces + lane];
                mma_f16(acc[n], r[i][0].x, r[i][1].x, r[i][0].y, r[i][1].y, hi.x, hi.y);
                mma_f16(acc[n], r[i][0].x, r[i][1].x, r[i][0].y, r[i][1].y, lo.x, lo.y);
                mma_f16(acc[n], r[i][0].z, r[i][1].z, r[i][0].w, r[i][1].w, hi.z, hi.w);
                mma_f16(acc[n], r[i][0].z, r[i][1].z, r[i][0].w, r[i][1].w, lo.z, lo.w);
            }
        }
        u32 b = step / 4;
        if (step % 4 == 3 && ((b + 1) % s.blocks == 0 || b + 1 == w.blocks)) fold(m, acc, b < s.blocks);
    }
}

DS4_DEVICE void tile_store(const TileMemory &m, const Weight &w, u32 tile, u32 count, float *y, u32 stride, float scale) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 row = tile * 16 + g;
#pragma unroll
    for (int n = 0; n < kOctets; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 column = n * 8 + 2 * t + i % 2, out = row + i / 2 * 8;
            if (column < count && out < w.rows) y[u64(m.y_row[column]) * stride + out] = m.total[n * 4 + i][threadIdx.x] * scale;
        }
}

/// grid: (columns / 64, units of 128 rows of all products); 256 threads. For Q8_0 and F16.
DS4_KERNEL(linear_tile, 256, 2, ProductParams) {
    DS4_DYNAMIC_SHARED(memory);
    TileMemory &m = *reinterpret_cast<TileMemory *>(memory);
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
    sync_block();
    u32 tile = unit * 8 + threadIdx.x / 32;
    u32 count = min_u(kColumns, p.rows - first);
    if (product.w.type == Q8_0) tile_integers<Q8_0>(m, product.w, tile, p.x, int(div_up(count, 8)));
    else tile_halves(m, product.w, tile, p.x);
    tile_store(m, product.w, tile, count, ptr<float>(product.y), product.y_stride, product.scale);
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
DS4_DEVICE void expert_tile(TileMemory &m, const ExpertTileParams &p) {
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    expert_columns(m, p, item);
    sync_block();
    bool is_shared = item.expert == p.n_expert;
    u32 tile = blockIdx.x * 8 + threadIdx.x / 32;
    Weight w = is_shared ? p.shared : slab_of(p.routed, item.expert);
    int octets = int(div_up(item.count, 8));
    if (!is_shared) tile_integers<TYPE>(m, w, tile, p.x, octets);
    else if (w.type == Q8_0) tile_integers<Q8_0>(m, w, tile, p.x, octets);
    else tile_halves(m, w, tile, p.x);
    tile_store(m, w, tile, item.count, ptr<float>(p.y), p.y_stride, 1.0f);
}

#define DS4_EXPERT_TILE(name, TYPE)                                         \
    DS4_KERNEL(name, 256, 2, ExpertTileParams) {                            \
        DS4_DYNAMIC_SHARED(memory);                                         \
        TileMemory &m = *reinterpret_cast<TileMemory *>(memory);            \
        if (TYPE == IQ2_XXS) load_grid(m.grid);                             \
        expert_tile<TYPE>(m, p);                                            \
    }

// Experts by storage type of the routed ones. grid: (units of 128 rows, items); 256 threads.
DS4_EXPERT_TILE(expert_tile_q8_0, Q8_0)
DS4_EXPERT_TILE(expert_tile_q2_k, Q2_K)
DS4_EXPERT_TILE(expert_tile_q4_k, Q4_K)
DS4_EXPERT_TILE(expert_tile_mxfp4, MXFP4)
DS4_EXPERT_TILE(expert_tile_iq2_xxs, IQ2_XXS)
