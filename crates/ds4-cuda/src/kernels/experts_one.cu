// Routed experts of a batch of one row: nothing to sort. The shared expert's gate and up are products of their own (`linear_one.cu`).
//
// A warp has one segment of a tile. Sums as in `experts.cu`, in the same order.
#include "experts_one.cuh"

/// Rows g and g + 8 of a segment's sums, which lanes with t = 0 have.
DS4_DEVICE void keep_sums(float *part, const float (&acc)[1][4]) {
    u32 lane = threadIdx.x % 32;
    if (lane % 4 == 0) part[lane / 4] = acc[0][0], part[lane / 4 + 8] = acc[0][2];
}

template <u32 TYPE>
DS4_DEVICE void gate_up_one(const ExpertOneParams &p, const u32 *grid) {
    constexpr u32 kStage = 2 * kBlockBytes<TYPE>;
    constexpr int kStages = kBlockBytes<TYPE> > 1500 ? 1 : 2;
    DS4_DYNAMIC_SHARED(memory);
    __shared__ float part[2][2][8 * 16];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp / 8, segment = warp % 8;
    wait_for_inputs();
    // What ran before this kernel is done: the next one may read the choice of experts while it waits.
    let_next_start();
    u32 id = lane < p.used ? ptr<const u32>(p.ids)[lane] : 0;
    u32 units = div_up(p.gate.rows, 32), all = units * p.used, tiles = div_up(p.gate.rows, 16);
    Segments s = segments_of(p.gate.blocks);
    u32 first = segment * s.blocks, last = segment < s.count ? min_u(first + s.blocks, p.gate.blocks) : first;
    // Units of all slots, one after the other.
    u32 ahead_unit = blockIdx.x, ahead = first;
    auto skip = [&] {
        while (ahead_unit < all && (ahead == last || ahead_unit % units * 2 + tile >= tiles)) ahead_unit += gridDim.x, ahead = first;
    };
    auto fill = [&](u8 *to) {
        if (first == last) return;
        skip();
        // Every lane takes part in the exchange.
        u32 expert = shuffle(id, int(min_u(ahead_unit, all - 1) / units));
        if (ahead_unit >= all) return;
        u64 at = u64(ahead_unit % units * 2 + tile) * p.gate.blocks + ahead;
        stage_weights<TYPE>(to, slab_of(p.gate, expert), at);
        stage_weights<TYPE>(to + kBlockBytes<TYPE>, slab_of(p.up, expert), at);
        ahead++;
    };
    Ring<kStages, kStage> ring;
    ring.start(memory + warp * (kStages * kStage), fill);
    for (u32 unit = blockIdx.x; unit < all; unit += gridDim.x) {
        u32 slot = unit / units, row = unit % units * 32;
        if (first < last && unit % units * 2 + tile < tiles) {
            float gate[1][4] = {}, up[1][4] = {};
            LaneColumns<1> columns = one_column(0);
#pragma unroll 1
            for (u32 b = first; b < last; b++) {
                OctetColumns<true> source;
                source.load_from(p.x, columns, b);
                const u8 *stage = ring.take();
                BlockOf<TYPE> gate_block, up_block;
                take_staged(gate_block, stage), take_staged(up_block, stage + kBlockBytes<TYPE>);
                accumulate_block<TYPE, 1, true>(gate_block, grid, source, gate);
                accumulate_block<TYPE, 1, true>(up_block, grid, source, up);
                ring.give(fill);
            }
            keep_sums(part[0][tile] + segment * 16, gate);
            keep_sums(part[1][tile] + segment * 16, up);
        }
        sync_block();
        if (warp == 0) {
            float v = 0.0f, weight = ptr<const float>(p.weights)[slot];
            if (row + lane < p.gate.rows)
                v = swiglu(one_sum(part[0][lane / 16], s.count, lane % 16), one_sum(part[1][lane / 16], s.count, lane % 16), p.limit) *
                    weight;
            emit_forms(p.mid, slot, row + lane, v, true, p.halves);
        }
        sync_block();
    }
}

/// All slots of 16 rows of the output, added in their order. A warp has a segment.
template <u32 TYPE>
DS4_DEVICE void down_one(const DownOneParams &p, const u32 *grid) {
    constexpr u32 kBytes = kBlockBytes<TYPE>, kSharedStage = kBlockBytes<Q8_0>;
    constexpr int kStages = kBytes > 2000 ? 3 : 6;
    DS4_DYNAMIC_SHARED(memory);
    u32 segment = threadIdx.x / 32, lane = threadIdx.x % 32, tile = blockIdx.x;
    u8 *own = memory + segment * (kStages * kBytes + kSharedStage);
    float *part = reinterpret_cast<float *>(memory + 8 * (kStages * kBytes + kSharedStage));
    // The choice of experts is older than the kernel ahead, which lets this one start only when that is done.
    u32 id = lane < p.used ? load_fresh(ptr<const u32>(p.ids) + lane) : 0;
    Segments s = segments_of(p.shared.blocks);
    u32 first = segment * s.blocks, last = segment < s.count ? min_u(first + s.blocks, p.shared.blocks) : first;

    bool integers = p.shared.type == Q8_0;
    u32 shared_steps = (last - first) * (integers ? 1 : 2);
    u64 shared_at = u64(tile) * p.shared.blocks + first;
    auto fill_shared = [&](u32 step) {
        if (integers) stage_weights<Q8_0>(own, p.shared, shared_at + step);
        else copy_warp<4096>(own, block_codes<F16>(p.shared, shared_at) + step * 4096);
        commit_copies();
    };
    if (shared_steps > 0) fill_shared(0);
    u32 ahead_slot = 0, ahead = first;
    auto fill = [&](u8 *to) {
        u32 expert = shuffle(id, int(min_u(ahead_slot, p.used - 1)));
        if (first == last || ahead_slot >= p.used) return;
        stage_weights<TYPE>(to, slab_of(p.routed, expert), u64(tile) * p.routed.blocks + ahead);
        if (++ahead == last) ahead_slot++, ahead = first;
    };
    Ring<kStages, kBytes> ring;
    ring.start(own + kSharedStage, fill);

    wait_for_inputs();
    float acc[1][4] = {};
#pragma unroll 1
    for (u32 step = 0; step < shared_steps; step++) {
        if (step == 0) {
            wait_copies<kStages>();
        } else {
            sync_warp();
            fill_shared(step);
            wait_copies<0>();
        }
        sync_warp();
        LaneColumns<1> columns = one_column(p.used);
        if (integers) {
            OctetColumns<true> source;
            source.load_from(p.x, columns, first + step);
            BlockOf<Q8_0> block;
            take_staged(block, own);
            accumulate_block<Q8_0, 1, true>(block, nullptr, source, acc);
        } else {
            GlobalColumns<1> source = {p.x, columns, first + step / 2, lane % 4};
            HalfBlock block;
            block.take_staged(own, int(lane));
            accumulate_half<1>(block, int(step % 2), source, acc);
        }
    }
    if (segment < s.count) keep_sums(part + (p.used * 8 + segment) * 16, acc);
#pragma unroll 1
    for (u32 slot = 0; slot < p.used; slot++) {
        float sum[1][4] = {};
        LaneColumns<1> columns = one_column(slot);
#pragma unroll 1
        for (u32 b = first; b < last; b++) {
            OctetColumns<true> source;
            source.load_from(p.x, columns, b);
            BlockOf<TYPE> block;
            take_staged(block, ring.take());
            accumulate_block<TYPE, 1, true>(block, grid, source, sum);
            ring.give(fill);
        }
        if (segment < s.count) keep_sums(part + (slot * 8 + segment) * 16, sum);
    }
    sync_block();
    u32 row = threadIdx.x, out = tile * 16 + row;
    if (row < 16 && out < p.shared.rows) {
        float sum = one_sum(part, s.count, row);
        for (u32 slot = 1; slot <= p.used; slot++) sum += one_sum(part + slot * 128, s.count, row);
        ptr<float>(p.y)[out] = sum;
    }
}

#define DS4_EXPERTS_ONE(suffix, TYPE)                                          \
    DS4_KERNEL_LATE(expert_gate_up_one_##suffix, 512, 1, ExpertOneParams) {    \
        __shared__ u32 grid[TYPE == IQ2_XXS ? kGridWords : 1];                 \
        if (TYPE == IQ2_XXS) load_grid(grid);                                  \
        gate_up_one<TYPE>(p, grid);                                            \
    }                                                                          \
    DS4_KERNEL_EARLY(expert_down_one_##suffix, 256, 2, DownOneParams) {        \
        __shared__ u32 grid[TYPE == IQ2_XXS ? kGridWords : 1];                 \
        if (TYPE == IQ2_XXS) load_grid(grid);                                  \
        down_one<TYPE>(p, grid);                                               \
    }

// Gate and up, grid: blocks that share the units of 32 rows of all slots; 512 threads. Down, grid: tiles of 16 rows; 256 threads.
DS4_EXPERTS_ONE(q8_0, Q8_0)
DS4_EXPERTS_ONE(q2_k, Q2_K)
DS4_EXPERTS_ONE(q4_k, Q4_K)
DS4_EXPERTS_ONE(mxfp4, MXFP4)
DS4_EXPERTS_ONE(iq2_xxs, IQ2_XXS)
