// Experts of large batches on warpgroup instructions: 192 rows of an expert's matrix times up to 64 of its slots per block.
//
// Four warps bring blocks of weights and columns into shared memory. Three warpgroups of 64 rows decode the weights on their way into
// registers.
// All of the shared memory is taken.
#undef DS4_TIMELINE
#include "expert_large.cuh"
#include "wgmma.cuh"

constexpr u32 kConsumers = 3;
constexpr u32 kRowTiles = kConsumers * 4;

/// One block of 256 columns of W.
template <u32 TYPE>
struct alignas(1024) ExpertStage {
    /// Four groups each; by column.
    uint4 codes[2][kColumns][8];
    float scales[8][kColumns];
    uint4 sums[kColumns][4];
    alignas(16) u8 weights[kRowTiles][Layout<TYPE>::codes], row_scales[kRowTiles][Layout<TYPE>::scales];
    alignas(16) u8 extra[kRowTiles][Layout<TYPE>::extra + 16];
};

template <u32 TYPE>
struct ExpertMemory {
    enum {
        size = sizeof(ExpertStage<TYPE>),
        stages = size > (70 << 10) ? 2 : size > (50 << 10) ? 3 : size > (40 << 10) ? 4 : 5,
    };
    ExpertStage<TYPE> stage[stages];
    u32 grid[TYPE == IQ2_XXS ? kGridWords : 4];
    RingBarriers<stages> barriers;
};

/// What a block computes next: rows of an expert's matrix times an item's slots.
struct ExpertUnit {
    Weight w;
    u32 matrix, tile, count;
    /// The item's slots.
    const u32 *slots;

    DS4_MEMBER ExpertUnit(const ExpertTileParams &p, u32 number, u32 per_item) {
        Item item = ptr<const Item>(p.items)[number / per_item];
        matrix = number % per_item / p.units, tile = number % p.units * kRowTiles;
        w = slab_of(p.w[matrix], item.expert);
        count = item.count, slots = ptr<const u32>(p.list) + item.first;
    }
    /// Row of x of a column; columns behind the last repeat it.
    DS4_MEMBER u32 row(const ExpertTileParams &p, u32 column) const {
        u32 slot = slots[min_u(column, count - 1)];
        return p.by_slot ? slot : slot / p.slots;
    }
};

/// Copies BYTES of each of the tiles; 128 threads.
template <u32 BYTES, u32 STRIDE>
DS4_DEVICE void copy_tiles(u8 *to, const u8 *from, u32 tile_stride, u32 tiles) {
    constexpr u32 kPieces = BYTES / 16;
#pragma unroll
    for (u32 k = 0; k < div_up(kRowTiles * kPieces, 128); k++) {
        u32 i = k * 128 + threadIdx.x % 128, tile = i / kPieces, piece = i % kPieces * 16;
        if (tile < tiles) copy_stream(to + tile * STRIDE + piece, from + u64(tile * tile_stride + piece));
    }
}

/// Brings weights and columns of all of the block's units; 128 threads.
template <u32 TYPE>
DS4_DEVICE void bring_blocks(ExpertMemory<TYPE> &m, const ExpertTileParams &p, u32 units, u32 per_item) {
    typedef Layout<TYPE> L;
    u32 t = threadIdx.x % 128, place = scale_place(t % kColumns);
    RingPlace<ExpertMemory<TYPE>::stages> ring;
    // The first time around all stages are free.
    ring.parity = 1;
    for (u32 number = blockIdx.x; number < units; number += gridDim.x) {
        ExpertUnit unit(p, number, per_item);
        const Weight &w = unit.w;
        u32 tiles = min_u(kRowTiles, div_up(w.rows, 16) - unit.tile), octets = div_up(unit.count, 16) * 2;
        const u8 *codes = ptr<const u8>(p.x.turned) + t % 16 * 16;
        // Half a warp brings a column.
        u32 columns[kColumns / 8];
#pragma unroll
        for (u32 k = 0; k < kColumns / 8; k++) columns[k] = unit.row(p, k * 8 + t / 16) * p.x.blocks * 256;
        const u8 *scales = ptr<const u8>(p.x.d) + u64(unit.row(p, t % kColumns)) * p.x.blocks * 32 + t / kColumns * 16;
        const u8 *sums[2];
#pragma unroll
        for (u32 k = 0; k < 2; k++) sums[k] = ptr<const u8>(p.x.s) + u64(unit.row(p, k * 32 + t / 4)) * p.x.blocks * 64 + t % 4 * 16;
        // Scales change their order on the way: they pass through registers, one block ahead.
        float4 next = load<float4>(scales);
        u64 at = u64(unit.tile) * w.blocks;
        for (u32 b = 0; b < w.blocks; b++, at++) {
            m.barriers.empty[ring.slot].wait(ring.parity);
            ExpertStage<TYPE> &to = m.stage[ring.slot];
#pragma unroll
            for (u32 k = 0; k < kColumns / 8; k++)
                if (k < octets) copy_stream(&to.codes[t % 16 / 8][k * 8 + t / 16][t % 8 ^ t / 16], codes + columns[k]);
            copy_tiles<L::codes, L::codes>(to.weights[0], block_codes<TYPE>(w, at), w.blocks * L::codes, tiles);
            copy_tiles<L::scales, L::scales>(to.row_scales[0], block_scales<TYPE>(w, at), w.blocks * L::scales, tiles);
            if constexpr (L::extra != 0)
                copy_tiles<L::extra, L::extra + 16>(to.extra[0], block_extra<TYPE>(w, at), w.blocks * L::extra, tiles);
            if constexpr (BlockOf<TYPE>::minima != 0) {
#pragma unroll
                for (u32 k = 0; k < 2; k++)
                    if (k * 4 < octets) copy_stream(&to.sums[k * 32 + t / 4][t % 4], sums[k] + b * 64);
            }
            float *to_scales = to.scales[t / kColumns * 4] + place;
            to_scales[0] = next.x, to_scales[kColumns] = next.y, to_scales[2 * kColumns] = next.z, to_scales[3 * kColumns] = next.w;
            scales += 32, codes += 256;
            if (b + 1 < w.blocks) next = load<float4>(scales);
            m.barriers.filled[ring.slot].arrive_after_copies();
            m.barriers.filled[ring.slot].arrive();
            ring.next();
        }
    }
}

/// Multiplies a unit: a warp has one tile of rows and all columns.
template <u32 TYPE, int NT>
DS4_DEVICE void use_blocks(ExpertMemory<TYPE> &m, const ExpertTileParams &p, const ExpertUnit &unit, u32 warp,
                           RingPlace<ExpertMemory<TYPE>::stages> &ring) {
    const Weight &w = unit.w;
    u32 lane = threadIdx.x % 32, t = lane % 4, per_segment = segments_of(w.blocks).blocks, left = per_segment;
    int sums[NT][4] = {};
    float segment[NT][4] = {}, total[NT][4];
#pragma unroll
    for (int k = 0; k < NT * 4; k++) total[k / 4][k % 4] = -0.0f;
    for (u32 b = 0; b < w.blocks; b++) {
        m.barriers.filled[ring.slot].wait(ring.parity);
        fence_copies();
        const ExpertStage<TYPE> &from = m.stage[ring.slot];
        BlockOf<TYPE> block;
        block.template take<FromShared>(from.weights[warp], from.row_scales[warp], from.extra[warp], int(lane));
        u32 a[2][4];
        block.group(0, m.grid, a[0]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            start_group<NT>(sums, a[i % 2], WideColumns(from.codes[i / 4]), i % 4 * 32);
            float s0, s1;
            block.scales(i, s0, s1);
            if (i < 7) block.group(i + 1, m.grid, a[(i + 1) % 2]);
            ColumnScales<NT> scales;
            scales.load_from(from.scales[i] + t * 4);
            wait_group<0>(sums, a[i % 2]);
            add_scaled(sums, s0, s1, scales, segment);
        }
        if constexpr (BlockOf<TYPE>::minima != 0) add_minima<TYPE, NT>(block, from.sums, lane, segment);
        sync_warp();
        if (lane == 0) m.barriers.empty[ring.slot].arrive();
        ring.next();
        if (--left == 0 || b + 1 == w.blocks) {
            left = per_segment;
#pragma unroll
            for (int k = 0; k < NT * 4; k++) total[k / 4][k % 4] += segment[k / 4][k % 4], segment[k / 4][k % 4] = 0.0f;
        }
    }
    store_columns<NT>(w, unit.tile + warp, total, int(unit.count), ptr<float>(p.y[unit.matrix]), p.y_stride, 1.0f,
                      [&](int column) { return unit.slots[column]; });
}

template <u32 TYPE>
DS4_DEVICE void expert_wgmma(const ExpertTileParams &p) {
    if (!kHasWarpgroups) return refuse();
    DS4_DYNAMIC_SHARED(memory);
    ExpertMemory<TYPE> &m = aligned_memory<ExpertMemory<TYPE>>(memory);
    if (threadIdx.x == 0) m.barriers.start(2 * 128, kConsumers * 4);
    if (TYPE == IQ2_XXS) load_grid(m.grid);
    sync_block();
    // Both matrices of a pair have results of their own.
    u32 per_item = p.units * (p.y[0] == p.y[1] ? 1 : 2), units = *ptr<const u32>(p.item_count) * per_item;
    u32 warp = threadIdx.x / 32;
    if (warp < 4) {
        fewer_registers<40>();
        bring_blocks<TYPE>(m, p, units, per_item);
        return;
    }
    more_registers<152>();
    warp -= 4;
    RingPlace<ExpertMemory<TYPE>::stages> ring;
    for (u32 number = blockIdx.x; number < units; number += gridDim.x) {
        ExpertUnit unit(p, number, per_item);
        switch (div_up(unit.count, 16)) {
            case 1: use_blocks<TYPE, 2>(m, p, unit, warp, ring); break;
            case 2: use_blocks<TYPE, 4>(m, p, unit, warp, ring); break;
            case 3: use_blocks<TYPE, 6>(m, p, unit, warp, ring); break;
            default: use_blocks<TYPE, 8>(m, p, unit, warp, ring); break;
        }
    }
}

// By storage type. grid: as many blocks as run at the same time; 512 threads.
DS4_KERNEL(expert_wgmma_q8_0, 512, 1, ExpertTileParams) { expert_wgmma<Q8_0>(p); }
DS4_KERNEL(expert_wgmma_q2_k, 512, 1, ExpertTileParams) { expert_wgmma<Q2_K>(p); }
DS4_KERNEL(expert_wgmma_q4_k, 512, 1, ExpertTileParams) { expert_wgmma<Q4_K>(p); }
DS4_KERNEL(expert_wgmma_mxfp4, 512, 1, ExpertTileParams) { expert_wgmma<MXFP4>(p); }
DS4_KERNEL(expert_wgmma_iq2_xxs, 512, 1, ExpertTileParams) { expert_wgmma<IQ2_XXS>(p); }
