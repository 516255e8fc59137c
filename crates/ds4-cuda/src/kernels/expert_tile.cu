// Experts of large batches: 256 rows of an expert's matrix times up to 64 of its slots per block.
//
// Weights go from memory into registers one block ahead and are decoded there, once for all columns of the item; the columns
// pass through shared memory. Each of sixteen warps has a tile of 16 rows and all columns.
#include "expert_large.cuh"

/// Bytes from one column's 256 codes to the next: lanes of half a warp read from different banks.
constexpr int kCodeStride = 288;

/// One block of 256 columns of W.
struct ExpertStage {
    u8 codes[kColumns * kCodeStride];
    float scales[8][kColumns];
    uint4 sums[kColumns][4];
};

constexpr int kStages = 3 + kMoreStages;

struct ExpertMemory {
    ExpertStage stage[kStages];
    u32 grid[kGridWords];
    u32 x_row[kColumns], y_row[kColumns];
};

/// Where a thread's next copies come from; each block is behind the one before.
template <int NT>
struct ColumnSources {
    const u8 *codes, *scales, *sums;
    /// Bytes from there to the thread's columns.
    u32 code_columns[(NT + 3) / 4], scale_column;

    DS4_MEMBER void start(const ExpertMemory &m, const Rows &x) {
        u32 t = threadIdx.x;
        codes = ptr<const u8>(x.q) + t % 16 * 16;
        scales = ptr<const u8>(x.d) + t % 8 * 4;
        sums = ptr<const u8>(x.s) + u64(m.x_row[t / 4 % kColumns]) * x.blocks * 64 + t % 4 * 16;
#pragma unroll
        for (int k = 0; k < (NT + 3) / 4; k++) code_columns[k] = m.x_row[t / 16 + 32 * k] * x.blocks * 256;
        scale_column = m.x_row[t / 8] * x.blocks * 32;
    }
    DS4_MEMBER void load(ExpertStage &to, bool with_sums) {
        u32 t = threadIdx.x;
#pragma unroll
        for (int k = 0; k < (NT + 3) / 4; k++)
            if (NT % 4 == 0 || t / 16 + 32 * k < NT * 8)
                copy_async<16>(to.codes + (t / 16 + 32 * k) * kCodeStride + t % 16 * 16, codes + code_columns[k]);
        if (NT == 8 || t / 8 < NT * 8) copy_async<4>(&to.scales[t % 8][scale_place(t / 8)], scales + scale_column);
        if (with_sums && t < NT * 32) copy_async<16>(&to.sums[t / 4][t % 4], sums);
        codes += 256, scales += 32, sums += 64;
    }
};

struct ExpertGroup {
    const u8 *column;
    const float *scale;

    DS4_MEMBER uint2 codes(int n) const { return *reinterpret_cast<const uint2 *>(column + n * 8 * kCodeStride); }
    DS4_MEMBER float4 scales(int n) const { return *reinterpret_cast<const float4 *>(scale + n * 8); }
};

template <u32 TYPE, int NT>
DS4_DEVICE void use_block(const BlockOf<TYPE> &block, const ExpertMemory &m, const ExpertStage &from, u32 lane, float (&acc)[1][NT][4]) {
    u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 a[1][4];
        float s[1][2];
        block.group(i, m.grid, a[0]), block.scales(i, s[0][0], s[0][1]);
        ExpertGroup group = {from.codes + g * kCodeStride + i * 32 + t * 8, from.scales[i] + t * 4};
        add_group<1, NT>(a, s, group, acc);
    }
    if constexpr (BlockOf<TYPE>::minima != 0) add_minima<TYPE, NT>(block, from.sums, lane, acc[0]);
}

template <u32 TYPE, int NT>
DS4_DEVICE void expert_columns(ExpertMemory &m, const ExpertTileParams &p, const Weight &w, u32 tile, u32 count, float *y) {
    u32 lane = threadIdx.x % 32;
    bool idle = tile >= div_up(w.rows, 16);
    u64 first = u64(tile) * w.blocks;
    Segments s = segments_of(w.blocks);
    ColumnSources<NT> from;
    from.start(m, p.x);
    WarpSums<1, NT> sums;
    sums.clear();
    // Small formats leave registers to load the next block early.
    constexpr bool kAhead = TYPE != Q8_0;
    BlockOf<TYPE> next;
    if (kAhead && !idle) next.load_from(w, first, lane, m.grid);
    u32 left = s.blocks;
    staged<kStages>(
        w.blocks, [&](u32, u32 slot) { from.load(m.stage[slot], BlockOf<TYPE>::minima); },
        [&](u32 b, u32 slot) {
            if (idle) return;
            if (!kAhead) next.load_from(w, first + b, lane, m.grid);
            BlockOf<TYPE> block = next;
            if (kAhead && b + 1 < w.blocks) next.load_from(w, first + b + 1, lane, m.grid);
            use_block<TYPE, NT>(block, m, m.stage[slot], lane, sums.segment);
            if (--left == 0 || b + 1 == w.blocks) sums.fold(), left = s.blocks;
        });
    if (!idle) sums.store(w, tile, m.y_row, count, y, p.y_stride, 1.0f);
}

template <u32 TYPE>
DS4_DEVICE void expert_tile(const ExpertTileParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    ExpertMemory &m = *reinterpret_cast<ExpertMemory *>(memory);
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    note_columns(m, p, item);
    if (TYPE == IQ2_XXS) load_grid(m.grid);
    sync_block();
    u32 matrix = blockIdx.x / p.units, tile = blockIdx.x % p.units * 16 + threadIdx.x / 32;
    Weight w = slab_of(p.w[matrix], item.expert);
    float *y = ptr<float>(p.y[matrix]);
    switch (div_up(item.count, 16)) {
        case 1: expert_columns<TYPE, 2>(m, p, w, tile, item.count, y); break;
        case 2: expert_columns<TYPE, 4>(m, p, w, tile, item.count, y); break;
        case 3: expert_columns<TYPE, 6>(m, p, w, tile, item.count, y); break;
        default: expert_columns<TYPE, 8>(m, p, w, tile, item.count, y); break;
    }
}

// By storage type. grid: (units of 256 rows of all matrices, items); 512 threads.
DS4_KERNEL(expert_tile_q8_0, 512, 1, ExpertTileParams) { expert_tile<Q8_0>(p); }
DS4_KERNEL(expert_tile_q2_k, 512, 1, ExpertTileParams) { expert_tile<Q2_K>(p); }
DS4_KERNEL(expert_tile_q4_k, 512, 1, ExpertTileParams) { expert_tile<Q4_K>(p); }
DS4_KERNEL(expert_tile_mxfp4, 512, 1, ExpertTileParams) { expert_tile<MXFP4>(p); }
DS4_KERNEL(expert_tile_iq2_xxs, 512, 1, ExpertTileParams) { expert_tile<IQ2_XXS>(p); }
