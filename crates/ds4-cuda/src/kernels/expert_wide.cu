// Experts of large batches where int8 matrix instructions are slow: 256 rows of an expert's matrix times up to 64 of its slots per
// block. The integers are multiplied as float16, exactly.
//
// Weights go from memory into registers one block ahead and are decoded there, once for all columns of the item; the columns
// pass through shared memory. Each of eight warps has two tiles of 16 rows and all columns.
#include "expert_large.cuh"


/// One block of 256 columns of W.
struct ExpertStage {
    uint4 codes[kColumns / 8][8][32];
    float scales[8][kColumns];
    uint4 sums[kColumns][4];
};

constexpr int kStages = 4;

struct ExpertMemory {
    ExpertStage stage[kStages];
    u32 grid[kGridWords];
    /// Bytes to the columns' codes.
    u32 x_row[kColumns], y_row[kColumns], place[kColumns];
};

/// Where a thread's next copies come from; each block is behind the one before.
template <int NT>
struct ColumnSources {
    const u8 *codes, *scales, *sums;
    /// Bytes from there to the thread's columns.
    u32 scale_columns[(NT + 3) / 4];

    DS4_MEMBER void start(const ExpertMemory &m, const Rows &x) {
        u32 t = threadIdx.x;
        codes = ptr<const u8>(x.wide) + t % 32 * 16;
        scales = ptr<const u8>(x.d) + t % 8 * 4;
        sums = ptr<const u8>(x.s) + u64(m.x_row[t / 4]) * x.blocks * 64 + t % 4 * 16;
#pragma unroll
        for (int k = 0; k < (NT + 3) / 4; k++) scale_columns[k] = m.x_row[t / 8 + 32 * k] * x.blocks * 32;
    }
    DS4_MEMBER void load(const ExpertMemory &m, ExpertStage &to, bool with_sums) {
        u32 t = threadIdx.x;
#pragma unroll
        for (int k = 0; k < NT; k++) copy_async<16>(&to.codes[k][t % 32 / 4][t / 32 * 4 + t % 4], codes + m.place[t / 32 + 8 * k]);
#pragma unroll
        for (int k = 0; k < (NT + 3) / 4; k++)
            if (NT % 4 == 0 || t / 8 + 32 * k < NT * 8)
                copy_async<4>(&to.scales[t % 8][scale_place(t / 8 + 32 * k)], scales + scale_columns[k]);
        if (with_sums && t < NT * 32) copy_async<16>(&to.sums[t / 4][t % 4], sums);
        codes += 512, scales += 32, sums += 64;
    }
};

template <u32 TYPE, int NT>
DS4_DEVICE void use_block(const BlockOf<TYPE> (&block)[2], const ExpertMemory &m, const ExpertStage &from, u32 lane,
                          float (&acc)[2][NT][4]) {
    u32 t = lane % 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 a[2][8];
        float s[2][2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            u32 integers[4];
            block[k].group(i, m.grid, integers), block[k].scales(i, s[k][0], s[k][1]);
            widen(integers, a[k]);
        }
        WideGroup<8> group = {&from.codes[0][i][lane], from.scales[i] + t * 4};
        add_wide_group<2, NT>(a, s, group, acc);
    }
    if constexpr (BlockOf<TYPE>::minima != 0) {
#pragma unroll
        for (int k = 0; k < 2; k++) add_minima<TYPE, NT>(block[k], from.sums, lane, acc[k]);
    }
}

template <u32 TYPE, int NT>
DS4_DEVICE void expert_columns(ExpertMemory &m, const ExpertTileParams &p, const Weight &w, u32 tile, u32 count, float *y) {
    u32 lane = threadIdx.x % 32, tiles = div_up(w.rows, 16);
    bool idle = tile >= tiles;
    u64 first = u64(tile) * w.blocks, second = u64(min_u(tile + 1, tiles - 1)) * w.blocks;
    Segments s = segments_of(w.blocks);
    ColumnSources<NT> from;
    from.start(m, p.x);
    WarpSums<2, NT> sums;
    sums.clear();
    // Small formats leave registers to load the next block early.
    constexpr bool kAhead = TYPE != Q8_0;
    BlockOf<TYPE> next[2];
    if (kAhead && !idle) next[0].load_from(w, first, lane, m.grid), next[1].load_from(w, second, lane, m.grid);
    u32 left = s.blocks;
    staged<kStages>(
        w.blocks, [&](u32, u32 slot) { from.load(m, m.stage[slot], BlockOf<TYPE>::minima); },
        [&](u32 b, u32 slot) {
            if (idle) return;
            if (!kAhead) next[0].load_from(w, first + b, lane, m.grid), next[1].load_from(w, second + b, lane, m.grid);
            BlockOf<TYPE> block[2] = {next[0], next[1]};
            if (kAhead && b + 1 < w.blocks)
                next[0].load_from(w, first + b + 1, lane, m.grid), next[1].load_from(w, second + b + 1, lane, m.grid);
            use_block<TYPE, NT>(block, m, m.stage[slot], lane, sums.segment);
            if (--left == 0 || b + 1 == w.blocks) sums.fold(), left = s.blocks;
        });
    if (!idle) sums.store(w, tile, m.y_row, count, y, p.y_stride, 1.0f);
}

template <u32 TYPE>
DS4_DEVICE void expert_wide(const ExpertTileParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    ExpertMemory &m = *reinterpret_cast<ExpertMemory *>(memory);
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    note_columns(m, p, item);
    if (threadIdx.x < kColumns) m.place[threadIdx.x] = m.x_row[threadIdx.x] * p.x.blocks * 512;
    if (TYPE == IQ2_XXS) load_grid(m.grid);
    sync_block();
    u32 matrix = blockIdx.x / p.units, tile = blockIdx.x % p.units * 16 + threadIdx.x / 32 * 2;
    Weight w = slab_of(p.w[matrix], item.expert);
    float *y = ptr<float>(p.y[matrix]);
    switch (div_up(item.count, 16)) {
        case 1: expert_columns<TYPE, 2>(m, p, w, tile, item.count, y); break;
        case 2: expert_columns<TYPE, 4>(m, p, w, tile, item.count, y); break;
        case 3: expert_columns<TYPE, 6>(m, p, w, tile, item.count, y); break;
        default: expert_columns<TYPE, 8>(m, p, w, tile, item.count, y); break;
    }
}

// By storage type. grid: (units of 256 rows of all matrices, items); 256 threads.
DS4_KERNEL(expert_wide_q8_0, 256, 1, ExpertTileParams) { expert_wide<Q8_0>(p); }
DS4_KERNEL(expert_wide_q2_k, 256, 1, ExpertTileParams) { expert_wide<Q2_K>(p); }
DS4_KERNEL(expert_wide_q4_k, 256, 1, ExpertTileParams) { expert_wide<Q4_K>(p); }
DS4_KERNEL(expert_wide_mxfp4, 256, 1, ExpertTileParams) { expert_wide<MXFP4>(p); }
DS4_KERNEL(expert_wide_iq2_xxs, 256, 1, ExpertTileParams) { expert_wide<IQ2_XXS>(p); }
