// Routed experts of a batch of one row in the formats of the 2-bit files: gate and up in IQ2_XXS, down in Q2_K with the shared expert in Q8_0.
// Four tiles share an accumulator (`quad.cuh`). Sums as in `experts.cu`, in the same order.
#include "experts_one.cuh"
#include "quad.cuh"

/// Units of 32 rows that a block computes at a time, and warps of each. A warp has the segments `warp`, `warp` + 4 of gate and up.
constexpr u32 kUnits = 3, kUnitWarps = 4;
/// Bytes of a block of a column: codes and scales.
constexpr u32 kColumn = 288;

// grid: blocks that share the units of all slots; 384 threads; shared memory: the columns of every warp's segments.
DS4_KERNEL_LATE(expert_gate_up_quads, kUnits * kUnitWarps * 32, 1, ExpertOneParams) {
    __shared__ u32 grid[kLaneGridWords];
    __shared__ float part[2][kUnits][4][8][16];
    __shared__ uint4 zeros[16];
    DS4_DYNAMIC_SHARED(memory);
    LaneGrid::fill(grid);
    if (threadIdx.x < 16) zeros[threadIdx.x] = {0, 0, 0, 0};
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, mine = warp % kUnitWarps, which = warp / kUnitWarps;
    u32 units = div_up(p.gate.rows, 32), all = units * p.used, blocks = p.gate.blocks;
    Segments s = segments_of(blocks);
    u32 own_blocks = div_up(s.count, kUnitWarps) * s.blocks;
    u8 *own = memory + warp * own_blocks * kColumn;
    const u8 *zero = reinterpret_cast<const u8 *>(zeros);
    LaneGrid table(grid);
    Iq2Stack stack(p.gate, p.up);
    sync_block();
    wait_for_inputs();
    // What ran before this kernel is done: the next one may read the choice of experts while it waits.
    u32 id = lane < p.used ? ptr<const u32>(p.ids)[lane] : 0;
    u8 *to = own;
    for (u32 segment = mine; segment < s.count; segment += kUnitWarps)
        for (u32 b = segment * s.blocks; b < min_u(segment * s.blocks + s.blocks, blocks); b++, to += kColumn) {
            const u8 *from = lane < 16 ? ptr<const u8>(p.x.q) + b * 256 + lane * 16 : ptr<const u8>(p.x.d) + b * 32 + (lane - 16) * 16;
            if (lane < kColumn / 16) copy_stream(to + lane * 16, from);
        }
    commit_copies();
    let_next_start();
    // The first block of a unit, and how far its second tile is.
    u32 second = 0;
    auto unit_at = [&](u32 unit) {
        u32 slot = min_u(unit, all - 1) / units, at = unit - slot * units;
        second = stack.second(at);
        return shuffle(id, int(slot)) * stack.per_expert + at * 2 * blocks;
    };
    Iq2Quad quad;
    u32 unit = blockIdx.x + which * gridDim.x, here = unit_at(unit);
    bool working = mine < s.count;
    if (unit < all && working) {
#pragma unroll
        for (int k = 0; k < 4; k++) stack.load_codes(quad, here + mine * s.blocks, second, k);
    }
    copies_done();
    sync_warp();
    mark(2);
    for (u32 base = blockIdx.x, round = 0; base < all; base += gridDim.x * kUnits, round ^= 1) {
        unit = base + which * gridDim.x;
        u32 next_unit = unit + gridDim.x * kUnits;
        bool busy = unit < all && working;
        float acc0 = 0.0f, acc1 = 0.0f;
        u32 segment = mine, b = mine * s.blocks, last = min_u(b + s.blocks, blocks), column = 0;
#pragma unroll 1
        while (busy) {
            stack.load_scales(quad, here + b, second);
            // Where the step after this one is.
            u32 done = segment, from = column;
            bool end = b + 1 == last, again = true;
            b++, column += kColumn;
            if (end) {
                segment += kUnitWarps;
                busy = segment < s.count;
                if (!busy) segment = mine, column = 0, again = next_unit < all, here = unit_at(next_unit);
                b = segment * s.blocks, last = min_u(b + s.blocks, blocks);
            }
            int c[4][4];
#pragma unroll
            for (int k = 0; k < 4; k++) c[k][0] = c[k][1] = c[k][2] = c[k][3] = kMagicInt;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const u8 *even = g == u32(2 * k) ? own + from + t * 8 : zero, *odd = g == u32(2 * k + 1) ? own + from + t * 8 : zero;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    // Even groups, then odd ones: products that follow each other are of different sums.
                    int i = j % 4 * 2 + j / 4;
                    u32 a[4], operand[2];
                    table.group(quad.codes[k], i, a);
                    load_octet(j < 4 ? even : odd, i, operand);
                    mma_s8(c[i / 2], a, operand);
                }
                if (again) stack.load_codes(quad, here + b, second, k);
            }
            float d0 = half_to_float(u16(quad.d[0])) * 0.125f, d1 = half_to_float(u16(quad.d[1])) * 0.125f, d[8];
            load_scales(own + from + 256, d);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                acc0 = fmaf(magic_sum(c[i / 2][i % 2]), iq2_scale(d0, quad.scale[0], i) * d[i], acc0);
                acc1 = fmaf(magic_sum(c[i / 2][2 + i % 2]), iq2_scale(d1, quad.scale[1], i) * d[i], acc1);
            }
            if (end) {
                float *to = part[round][which][t][done];
                to[g] = acc0, to[g + 8] = acc1;
                acc0 = acc1 = 0.0f;
            }
        }
        mark(3 + round);
        sync_block();
        if (mine == 0 && unit < all) {
            u32 slot = unit / units, row = unit % units * 32 + lane;
            float v = 0.0f, weight = ptr<const float>(p.weights)[slot];
            if (row < p.gate.rows)
                v = swiglu(one_sum(part[round][which][lane / 16][0], s.count, lane % 16),
                           one_sum(part[round][which][2 + lane / 16][0], s.count, lane % 16), p.limit) *
                    weight;
            emit_forms(p.mid, slot, row, v, true, p.halves);
        }
    }
}

/// Warps of a segment of down. Each has four pairs of a slot and one of the unit's two tiles at a time.
constexpr u32 kDownWarps = 3;
/// A block of a column with the sums of its 16s.
constexpr u32 kSummedColumn = 352;

struct StagedColumn {
    const u8 *at;
    u32 t;
    DS4_MEMBER uint2 codes(int, int i) const { return load<uint2>(at + i * 32 + t * 8); }
    DS4_MEMBER float2 scale(int, int i) const { return {load<float>(at + 256 + i * 4), 0.0f}; }
    DS4_MEMBER uint4 sums(int) const { return load<uint4>(at + 288 + t * 16); }
};

DS4_DEVICE void stage_column(u8 *to, const Rows &x, u32 slot, u32 block) {
    u32 lane = threadIdx.x % 32;
    u64 at = u64(slot) * x.blocks + block;
    const u8 *from = lane < 16   ? ptr<const u8>(x.q) + at * 256 + lane * 16
                     : lane < 18 ? ptr<const u8>(x.d) + at * 32 + (lane - 16) * 16
                                 : ptr<const u8>(x.s) + at * 64 + (lane - 18) * 16;
    if (lane < 22) copy_stream(to + lane * 16, from);
}

/// A quad's four pairs: their tile blocks and columns in shared memory.
struct DownQuad {
    u8 *weights, *columns;
    const u8 *zero;

    /// Adds a block's products to the sums of the lane's pair. `other_half`: called before the third pair's weights are read.
    template <class Wait>
    DS4_MEMBER void add(u32 t, const u32 (&column_of)[4], float &acc0, float &acc1, Wait &&other_half) const {
        constexpr u32 kBlock = kBlockBytes<Q2_K>;
        u32 g = threadIdx.x % 32 / 4;
        int c[4][4];
        float minima[4] = {};
#pragma unroll
        for (int k = 0; k < 4; k++) c[k][0] = c[k][1] = c[k][2] = c[k][3] = kMagicInt;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (k == 2) other_half();
            const u8 *block = weights + k * kBlock, *x = columns + column_of[k] * kSummedColumn;
            const u8 *even = g == u32(2 * k) ? x + t * 8 : zero, *odd = g == u32(2 * k + 1) ? x + t * 8 : zero;
            Q2Half half[2] = {Q2Half(block, 0), Q2Half(block, 1)};
#pragma unroll
            for (int j = 0; j < 8; j++) {
                int i = j % 4 * 2 + j / 4;
                u32 a[4], operand[2];
                half[i / 4].group(i % 4, a);
                load_octet(j < 4 ? even : odd, i, operand);
                mma_s8(c[i / 2], a, operand);
            }
            add_q2_minima(block, g == u32(2 * k) ? x + 288 + t * 16 : zero, minima);
        }
        // Every lane has a pair of its own now.
        u32 mine = t == 0 ? column_of[0] : t == 1 ? column_of[1] : t == 2 ? column_of[2] : column_of[3];
        Q2Factors f(weights + t * kBlock);
        float d[8];
        load_scales(columns + mine * kSummedColumn + 256, d);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            acc0 = fmaf(magic_sum(c[i / 2][i % 2]), f.d0 * d[i], acc0);
            acc1 = fmaf(magic_sum(c[i / 2][2 + i % 2]), f.d1 * d[i], acc1);
        }
        acc0 = fmaf(f.min0, minima[0], acc0), acc1 = fmaf(f.min1, minima[2], acc1);
    }
};

// All slots of 32 rows of the output, added in their order. grid: units of 32 rows; 768 threads; shared memory: per warp four blocks of
// weights and three columns, then sums of segments, then sums of slots.
DS4_KERNEL_EARLY(expert_down_quads, kDownWarps * 256, 1, DownOneParams) {
    constexpr u32 kBlock = kBlockBytes<Q2_K>, kOwn = 4 * kBlock + 3 * kSummedColumn;
    DS4_DYNAMIC_SHARED(memory);
    __shared__ uint4 zeros[16];
    if (threadIdx.x < 16) zeros[threadIdx.x] = {0, 0, 0, 0};
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, segment = warp % 8, turn = warp / 8, unit = blockIdx.x;
    u8 *own = memory + warp * kOwn;
    DownQuad quad = {own, own + 4 * kBlock, reinterpret_cast<const u8 *>(zeros)};
    // [slot][tile][segment][row], the shared expert behind the slots; [slot][row].
    float *part = reinterpret_cast<float *>(memory + kDownWarps * 8 * kOwn), *total = part + (p.used + 1) * 256;
    // The choice of experts is older than the kernel ahead, which lets this one start only when that is done.
    u32 id = lane < p.used ? load_fresh(ptr<const u32>(p.ids) + lane) : 0;
    u32 blocks = p.routed.blocks, tiles = div_up(p.routed.rows, 16), pairs = p.used * 2, quads = div_up(pairs, 4);
    Segments s = segments_of(blocks);
    u32 first = segment * s.blocks, last = segment < s.count ? min_u(first + s.blocks, blocks) : first;
    // Pairs behind the last repeat it.
    auto stage_half = [&](u32 q, u32 b, u32 half) {
#pragma unroll
        for (u32 k = half * 2; k < half * 2 + 2; k++) {
            u32 pair = min_u(q * 4 + k, pairs - 1), expert = shuffle(id, int(pair / 2));
            u64 tile = min_u(unit * 2 + pair % 2, tiles - 1);
            stage_weights<Q2_K>(own + k * kBlock, slab_of(p.routed, expert), tile * blocks + b);
        }
    };
    auto stage_columns = [&](u32 q, u32 b) {
#pragma unroll
        for (u32 k = 0; k < 2; k++) stage_column(own + 4 * kBlock + k * kSummedColumn, p.x, min_u(q * 2 + k, p.used - 1), b);
    };
    // The shared expert's tiles are the work of a segment's first two warps.
    bool with_shared = turn < 2 && first < last;
    u64 shared_at = u64(min_u(unit * 2 + turn % 2, tiles - 1)) * blocks;
    BlockOf<Q8_0> shared;
    bool active = first < last && turn < quads;
    if (with_shared) shared.load_from(p.shared, shared_at + first, int(lane), nullptr);
    if (active) stage_half(turn, first, 0);
    sync_block();

    wait_for_inputs();
    if (with_shared) stage_column(own + 4 * kBlock + 2 * kSummedColumn, p.x, p.used, first);
    // Columns come behind the weights that were asked for before, so only half of these were.
    if (active) stage_columns(turn, first);
    commit_copies();
    if (active) stage_half(turn, first, 1);
    commit_copies();
    wait_copies<1>();
    sync_warp();
    mark(2);
    if (with_shared) {
        float acc[1][4] = {};
#pragma unroll 1
        for (u32 b = first; b < last; b++) {
            if (b > first) {
                sync_warp();
                shared.load_from(p.shared, shared_at + b, int(lane), nullptr);
                stage_column(own + 4 * kBlock + 2 * kSummedColumn, p.x, p.used, b);
                copies_done();
                sync_warp();
            }
            StagedColumn source = {own + 4 * kBlock + 2 * kSummedColumn, t};
            accumulate_block<Q8_0, 1, true>(shared, nullptr, source, acc);
        }
        float *to = part + ((p.used * 2 + turn) * 8 + segment) * 16;
        if (t == 0) to[g] = acc[0][0], to[g + 8] = acc[0][2];
    }
    mark(3);
    if (first < last) {
#pragma unroll 1
        for (u32 q = turn; q < quads; q += kDownWarps) {
            float acc0 = 0.0f, acc1 = 0.0f;
#pragma unroll 1
            for (u32 b = first; b < last; b++) {
                if (q > turn || b > first) {
                    sync_warp();
                    stage_half(q, b, 0), stage_half(q, b, 1), stage_columns(q, b);
                    copies_done();
                    sync_warp();
                }
                quad.add(t, {0, 0, 1, 1}, acc0, acc1, [] {
                    copies_done();
                    sync_warp();
                });
            }
            u32 pair = q * 4 + t;
            float *to = part + (pair * 8 + segment) * 16;
            if (pair < pairs) to[g] = acc0, to[g + 8] = acc1;
        }
    }
    mark(4);
    sync_block();
    mark(5);
    for (u32 slot = warp; slot <= p.used; slot += kDownWarps * 8)
        total[slot * 32 + lane] = one_sum(part + (slot * 2 + lane / 16) * 128, s.count, lane % 16);
    sync_block();
    u32 out = unit * 32 + lane;
    if (warp == 0 && out < p.routed.rows) {
        float sum = total[lane];
        for (u32 slot = 1; slot <= p.used; slot++) sum += total[slot * 32 + lane];
        ptr<float>(p.y)[out] = sum;
    }
}
