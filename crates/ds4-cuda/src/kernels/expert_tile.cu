// Experts of large batches: slots sorted by expert, and 256 rows of an expert's matrix times up to 64 of its slots per block.
//
// Weights go from memory into registers one block ahead and are decoded there, once for all columns of the item; the columns
// pass through shared memory. Each of sixteen warps has a tile of 16 rows and all columns.
#include "tile.cuh"

constexpr int kMostExperts = 512;

struct SortParams {
    u64 ids, list, items, item_count, starts;
    u32 rows, used, n_expert, columns;
};

/// How many slots each expert has: where its part of the list starts, and its items, runs of at most `columns` slots.
/// One block of 1024 threads.
DS4_KERNEL(expert_items, 1024, 1, SortParams) {
    __shared__ u32 count[kMostExperts], first[kMostExperts], first_item[kMostExperts];
    u32 t = threadIdx.x, lane = t % 32, choices = p.rows * p.used;
    const u32 *ids = ptr<const u32>(p.ids);
    Item *items = ptr<Item>(p.items);
    for (u32 e = t; e < p.n_expert; e += 1024) count[e] = 0;
    sync_block();
    for (u32 i = t; i < choices; i += 1024) atomic_add(&count[ids[i]], 1);
    sync_block();
    if (t < 32) {
        // Lane l has the experts from l * per on.
        u32 per = div_up(p.n_expert, 32), slots_here = 0, items_here = 0;
        for (u32 e = lane * per; e < min_u(lane * per + per, p.n_expert); e++)
            slots_here += count[e], items_here += div_up(count[e], p.columns);
        u32 slot = slots_here, item = items_here;
        for (u32 step = 1; step < 32; step *= 2) {
            u32 other_slot = shuffle(slot, int(lane - step)), other_item = shuffle(item, int(lane - step));
            if (lane >= step) slot += other_slot, item += other_item;
        }
        if (lane == 31) *ptr<u32>(p.item_count) = item;
        slot -= slots_here, item -= items_here;
        for (u32 e = lane * per; e < min_u(lane * per + per, p.n_expert); e++) {
            first[e] = slot, first_item[e] = item;
            slot += count[e], item += div_up(count[e], p.columns);
        }
    }
    sync_block();
    for (u32 e = t; e < p.n_expert; e += 1024) {
        ptr<u32>(p.starts)[e] = first[e];
        for (u32 i = 0; i * p.columns < count[e]; i++)
            items[first_item[e] + i] = {e, first[e] + i * p.columns, min_u(p.columns, count[e] - i * p.columns), 0};
    }
}

/// The slots (row * (used + 1) + choice) of each expert, ascending. grid: experts; 256 threads, of which each warp looks through
/// an eighth of the batch.
DS4_KERNEL(expert_list, 256, 4, SortParams) {
    __shared__ u32 counts[8];
    u32 e = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, slots = p.used + 1, choices = p.rows * p.used;
    const u32 *ids = ptr<const u32>(p.ids);
    u32 *list = ptr<u32>(p.list);
    u32 part = div_up(div_up(choices, 8), 32) * 32, begin = warp * part, end = min_u(begin + part, choices);
    // Several loads on their way at a time.
    constexpr int kBatch = 8;
    u32 at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (u32 base = begin; base < end; base += 32 * kBatch) {
            u32 id[kBatch];
#pragma unroll
            for (int k = 0; k < kBatch; k++) id[k] = base + k * 32 + lane < end ? ids[base + k * 32 + lane] : ~0u;
#pragma unroll
            for (int k = 0; k < kBatch; k++) {
                u32 i = base + k * 32 + lane, votes = warp_votes(id[k] == e);
                if (pass == 1 && id[k] == e) list[at + count_bits(votes & ((1u << lane) - 1))] = i / p.used * slots + i % p.used;
                at += count_bits(votes);
            }
        }
        if (pass == 1) break;
        if (lane == 0) counts[warp] = at;
        sync_block();
        at = ptr<const u32>(p.starts)[e];
        for (u32 w = 0; w < warp; w++) at += counts[w];
    }
}

constexpr int kColumns = 64;
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

struct ExpertTileParams {
    /// One or two stacks of the same shape, and where their results go.
    Weight w[2];
    u64 y[2];
    Rows x;
    u64 items, item_count, list;
    u32 y_stride, units, slots, by_slot;
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
    if constexpr (BlockOf<TYPE>::minima != 0) {
        u32 minima[4];
        float factor[2];
        block.mins(minima, factor);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float c[4];
            minima_product(minima, from.sums[n * 8 + g][t], c);
            float(&to)[4] = acc[0][n];
            to[0] = fmaf(factor[0], c[0], to[0]), to[1] = fmaf(factor[0], c[1], to[1]);
            to[2] = fmaf(factor[1], c[2], to[2]), to[3] = fmaf(factor[1], c[3], to[3]);
        }
    }
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
    if (threadIdx.x < kColumns) {
        u32 slot = ptr<const u32>(p.list)[item.first + min_u(threadIdx.x, item.count - 1)];
        m.x_row[threadIdx.x] = p.by_slot ? slot : slot / p.slots;
        m.y_row[threadIdx.x] = slot;
    }
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
