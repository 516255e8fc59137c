// Experts of batches of 2 to 64 rows in the formats of the 2-bit files: gate and up in IQ2_XXS, down in Q2_K, the shared expert in Q8_0.
//
// Items are at most two slots of an expert, so that four tiles share an accumulator (`quad.cuh`); most experts of such a batch have no
// more. Blocks stay: each takes the next unit of an item when it is done with one, and loads its weights while it computes
// the one before. Sums as in `experts.cu`, in the same order.
#include "experts.cuh"
#include "quad.cuh"

/// Most columns of an item of the routed experts, and bytes of a block of them: codes and scales; sums of 16s.
constexpr u32 kPair = 2, kPairBytes = 640, kSummedPairBytes = 704;
/// Bytes from a column's codes to the next one's in gate and up: other banks. Down has them 256 apart: registers are short there.
constexpr u32 kNextColumn = 288;
/// Sums of a unit's four tiles: [tile][segment][column][row 16 + 1].
constexpr u32 kPairSums = 4 * 8 * kPair * 17;

/// An item, for shared memory.
struct SmallItem {
    u16 expert, first, count, pad;
};

/// The items and their slots, which a block copies, and the units that it takes.
struct UnitQueue {
    SmallItem *items;
    u16 *list;
    u32 *next, *counter;
    u32 units, all;

    /// Bytes behind `at`: items, list and two numbers. `counter`: the zero that this kernel counts from.
    DS4_MEMBER void start(u8 *at, u64 items_at, u64 count_at, u64 list_at, u32 slots, u32 most_items, u32 units_of_item, u32 counter_at) {
        next = reinterpret_cast<u32 *>(at), items = reinterpret_cast<SmallItem *>(at + 16);
        list = reinterpret_cast<u16 *>(items + most_items), counter = ptr<u32>(count_at) + counter_at, units = units_of_item;
        u32 count = min_u(*ptr<const u32>(count_at), most_items);
        all = count * units;
        for (u32 i = threadIdx.x; i < count; i += blockDim.x) {
            Item item = ptr<const Item>(items_at)[i];
            items[i] = {u16(item.expert), u16(item.first), u16(item.count), 0};
        }
        for (u32 i = threadIdx.x; i < slots; i += blockDim.x) list[i] = u16(ptr<const u32>(list_at)[i]);
        sync_block();
    }
    DS4_MEMBER bool is_shared(u32 unit, u32 n_expert) const { return unit < all && items[unit / units].expert == n_expert; }
    /// The slot in column `column` of an item; columns behind the last repeat it.
    DS4_MEMBER u32 slot(const SmallItem &item, u32 column) const { return list[item.first + min_u(column, item.count - 1u)]; }
};

/// Where a unit's weights and a lane's column of it are.
struct Place {
    u32 at, second, column;
    bool routed;
};

/// Sums of a lane's own tile over a warp's segment, for both columns.
struct PairSums {
    float column[kPair][2];

    /// Adds half a block: groups' sums times the row's and the column's scales.
    DS4_MEMBER void add(u32 c_at, const int (&c)[4][4], const float (&s)[4][2], const u8 *scales) {
        float4 v = load<float4>(scales);
        float d[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            column[c_at][0] = fmaf(magic_sum(c[j][c_at]), s[j][0] * d[j], column[c_at][0]);
            column[c_at][1] = fmaf(magic_sum(c[j][2 + c_at]), s[j][1] * d[j], column[c_at][1]);
        }
    }
    DS4_MEMBER void keep(float *part, u32 segment) const {
        u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        float *to = part + (t * 8 + segment) * kPair * 17 + g;
        to[0] = column[0][0], to[8] = column[0][1], to[17] = column[1][0], to[25] = column[1][1];
    }
};

/// The sum of the segments of row `row` of a tile, of `columns` columns.
DS4_DEVICE float pair_sum(const float *part, u32 segments, u32 tile, u32 columns, u32 column, u32 row) {
    const float *from = part + (tile * 8 * columns + column) * 17 + row;
    float sum = from[0];
    for (u32 s = 1; s < segments; s++) sum += from[s * columns * 17];
    return sum;
}

struct GateUpMemory {
    u32 grid[kLaneGridWords];
    u8 columns[8][2][kPairBytes];
    /// Zeros are not in the banks of columns.
    uint4 pad[4], zeros[16];
    /// Sums of a shared item; or twice those of a pair.
    float part[2 * kPartFloats<1>];
};

// grid: blocks that share the units of 32 rows of all items; 256 threads; shared memory: `GateUpMemory`, then the queue.
DS4_KERNEL_LATE(expert_gate_up_pairs, 256, 2, ExpertParams) {
    DS4_DYNAMIC_SHARED(memory);
    GateUpMemory &m = *reinterpret_cast<GateUpMemory *>(memory);
    LaneGrid::fill(m.grid);
    if (threadIdx.x < 16) m.zeros[threadIdx.x] = {0, 0, 0, 0};
    u32 segment = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slots = p.used + 1;
    u32 blocks = p.gate.blocks;
    Segments s = segments_of(blocks);
    u32 first = segment * s.blocks, last = segment < s.count ? min_u(first + s.blocks, blocks) : first;
    LaneGrid table(m.grid);
    Iq2Stack stack(p.gate, p.up);
    wait_for_inputs();
    let_next_start();
    UnitQueue queue;
    queue.start(memory + sizeof(GateUpMemory), p.items, p.item_count, p.list, p.slots, p.most_items, div_up(p.gate.rows, 32), 1);

    Iq2Quad quad;
    auto place_of = [&](u32 number) {
        Place to = {0, 0, 0, false};
        if (number >= queue.all || first == last) return to;
        u32 at = number / queue.units, unit = number - at * queue.units;
        SmallItem item = queue.items[at];
        to.routed = item.expert != p.n_expert;
        to.at = item.expert * stack.per_expert + unit * 2 * blocks, to.second = stack.second(unit);
        to.column = queue.slot(item, lane / 16) / slots;
        return to;
    };
    auto stage_columns = [&](u32 column, u32 b, u32 which) {
        // Half a warp copies a column's codes; four lanes copy scales.
        u32 at = column * blocks + b, of_scales = shuffle(at, int(lane * 8 & 16));
        copy_stream(m.columns[segment][which] + lane / 16 * kNextColumn + lane % 16 * 16, ptr<const u8>(p.x.q) + u64(at) * 256 + lane % 16 * 16);
        if (lane < 4) copy_stream(m.columns[segment][which] + 576 + lane * 16, ptr<const u8>(p.x.d) + u64(of_scales) * 32 + lane % 2 * 16);
        commit_copies();
    };
    auto start_unit = [&](const Place &place, u32 which) {
        if (!place.routed) return;
#pragma unroll
        for (int k = 0; k < 4; k++) stack.load_codes(quad, place.at + first, place.second, k);
        stage_columns(place.column, first, which);
    };
    u32 number = blockIdx.x, next = number + gridDim.x, which = 0;
    Place here = place_of(number);
    start_unit(here, which);
#pragma unroll 1
    for (u32 turn = 0; number < queue.all; turn ^= 1) {
        u32 taken = 0;
        if (threadIdx.x == 0) taken = 2 * gridDim.x + atomic_add(queue.counter, 1);
        Place there = place_of(next);
        u32 at = number / queue.units, unit = number - at * queue.units;
        SmallItem item = queue.items[at];
        bool shared = item.expert == p.n_expert;
        float *part = m.part + (shared ? 0 : turn * kPairSums);
        if (here.routed) {
            PairSums sums = {};
#pragma unroll 1
            for (u32 b = first; b < last; b++) {
                stack.load_scales(quad, here.at + b, here.second);
                bool end = b + 1 == last, again = !end || there.routed;
                u32 ahead_b = end ? first : b + 1, ahead = (end ? there.at : here.at) + ahead_b, second = end ? there.second : here.second;
                copies_done();
                sync_warp();
                if (again) stage_columns(end ? there.column : here.column, ahead_b, which ^ 1);
                const u8 *x = m.columns[segment][which], *zero = reinterpret_cast<const u8 *>(m.zeros);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    int c[4][4];
#pragma unroll
                    for (int j = 0; j < 4; j++) c[j][0] = c[j][1] = c[j][2] = c[j][3] = kMagicInt;
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const u8 *from = g / 2 == u32(k) ? x + g % 2 * kNextColumn + t * 8 : zero;
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            u32 a[4], operand[2];
                            table.group(quad.codes[k], h * 4 + j, a);
                            load_octet(from, h * 4 + j, operand);
                            mma_s8(c[j], a, operand);
                        }
                        if (h == 1 && again) stack.load_codes(quad, ahead, second, k);
                    }
                    float d0 = half_to_float(u16(quad.d[0])) * 0.125f, d1 = half_to_float(u16(quad.d[1])) * 0.125f, scales[4][2];
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        scales[j][0] = iq2_scale(d0, quad.scale[0], h * 4 + j), scales[j][1] = iq2_scale(d1, quad.scale[1], h * 4 + j);
                    sums.add(0, c, scales, x + 576 + h * 16);
                    if (item.count > 1) sums.add(1, c, scales, x + 608 + h * 16);
                }
                which ^= 1;
            }
            sums.keep(part, segment);
        } else {
            if (shared) {
                LaneColumns<1> columns = {
                    {queue.slot(item, g) / slots}, {queue.slot(item, 2 * t) / slots}, {queue.slot(item, 2 * t + 1) / slots}};
                unit_segments<Q8_0, 1>(p.shared_gate, unit, nullptr, p.x, columns, part);
                unit_segments<Q8_0, 1>(p.shared_up, unit, nullptr, p.x, columns, part + kPartFloats<1>);
            }
            start_unit(there, which);
        }
        if (threadIdx.x == 0) queue.next[turn] = taken;
        sync_block();
        u32 after = queue.next[turn];
        // Which warp finishes a column changes, so that none is always late.
        u32 column = (segment - turn * 4) % 8;
        if (column < item.count) {
            u32 columns = shared ? 8 : kPair, row = unit * 32 + lane, slot = queue.slot(item, column), choice = slot % slots;
            float v = 0.0f, weight = shared ? 1.0f : ptr<const float>(p.weights)[slot / slots * p.used + choice];
            if (row < p.gate.rows)
                v = swiglu(pair_sum(part, s.count, lane / 16, columns, column, lane % 16),
                           pair_sum(part, s.count, 2 + lane / 16, columns, column, lane % 16), p.limit) *
                    weight;
            emit_forms(p.mid, slot, row, v, true, p.halves);
        }
        // The shared expert's sums take the room of both turns.
        if (shared || queue.is_shared(next, p.n_expert)) sync_block();
        number = next, next = after, here = there;
    }
}

struct DownMemory {
    u8 weights[8][2][4 * kBlockBytes<Q2_K>];
    u8 columns[8][2][kSummedPairBytes];
    uint4 zeros[16];
    float part[2 * kPairSums];
};

// grid: blocks that share the units of 64 rows of all items; 256 threads; shared memory: `DownMemory`, then the queue.
DS4_KERNEL_LATE(expert_down_pairs, 256, 2, DownParams) {
    constexpr u32 kBlock = kBlockBytes<Q2_K>;
    static_assert(kPartFloats<1> <= 2 * kPairSums, "the shared expert's sums");
    DS4_DYNAMIC_SHARED(memory);
    DownMemory &m = *reinterpret_cast<DownMemory *>(memory);
    if (threadIdx.x < 16) m.zeros[threadIdx.x] = {0, 0, 0, 0};
    u32 segment = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 tiles = div_up(p.routed.rows, 16), blocks = p.routed.blocks, per_expert = tiles * blocks;
    Segments s = segments_of(blocks);
    u32 first = segment * s.blocks, last = segment < s.count ? min_u(first + s.blocks, blocks) : first;
    // The items are older than the kernel ahead, which lets this one start only when they are there.
    UnitQueue queue;
    queue.start(memory + sizeof(DownMemory), p.items, p.item_count, p.list, p.slots, p.most_items, div_up(p.routed.rows, 64), 2);

    auto place_of = [&](u32 number) {
        Place to = {0, 0, 0, false};
        if (number >= queue.all || first == last) return to;
        u32 at = number / queue.units, unit = number - at * queue.units;
        SmallItem item = queue.items[at];
        to.routed = item.expert != p.n_expert;
        to.at = item.expert * per_expert + unit * 4 * blocks;
        // Tiles behind an expert's last repeat it.
        to.second = tiles - 1 - unit * 4;
        to.column = queue.slot(item, lane / 16);
        return to;
    };
    auto stage_tiles = [&](const Place &place, u32 b, u32 which) {
#pragma unroll
        for (u32 k = 0; k < 4; k++)
            stage_weights<Q2_K>(m.weights[segment][which] + k * kBlock, p.routed, place.at + b + min_u(k, place.second) * blocks);
    };
    auto stage_columns = [&](const Place &place, u32 b, u32 which) {
        u8 *to = m.columns[segment][which];
        u32 at = place.column * blocks + b, low = shuffle(at, 0), high = shuffle(at, 16);
        copy_stream(to + lane / 16 * 256 + lane % 16 * 16, ptr<const u8>(p.x.q) + u64(at) * 256 + lane % 16 * 16);
        // Scales of both columns, then sums of both.
        if (lane < 4) copy_stream(to + 512 + lane * 16, ptr<const u8>(p.x.d) + u64(lane < 2 ? low : high) * 32 + lane % 2 * 16);
        else if (lane < 12) copy_stream(to + 512 + lane * 16, ptr<const u8>(p.x.s) + u64(lane < 8 ? low : high) * 64 + lane % 4 * 16);
        commit_copies();
    };
    u32 number = blockIdx.x, next = number + gridDim.x, which = 0;
    Place here = place_of(number);
    if (here.routed) stage_tiles(here, first, which);
    wait_for_inputs();
    let_next_start();
    if (here.routed) stage_columns(here, first, which);
#pragma unroll 1
    for (u32 turn = 0; number < queue.all; turn ^= 1) {
        u32 taken = 0;
        if (threadIdx.x == 0) taken = 2 * gridDim.x + atomic_add(queue.counter, 1);
        Place there = place_of(next);
        u32 at = number / queue.units, unit = number - at * queue.units;
        SmallItem item = queue.items[at];
        bool shared = item.expert == p.n_expert;
        float *part = m.part + (shared ? 0 : turn * kPairSums);
        if (here.routed) {
            PairSums sums = {};
#pragma unroll 1
            for (u32 b = first; b < last; b++) {
                bool end = b + 1 == last;
                copies_done();
                sync_warp();
                if (!end || there.routed) {
                    Place ahead = end ? there : here;
                    stage_tiles(ahead, end ? first : b + 1, which ^ 1), stage_columns(ahead, end ? first : b + 1, which ^ 1);
                }
                const u8 *x = m.columns[segment][which], *w = m.weights[segment][which], *zero = reinterpret_cast<const u8 *>(m.zeros);
                float minima[4] = {};
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    int c[4][4];
#pragma unroll
                    for (int j = 0; j < 4; j++) c[j][0] = c[j][1] = c[j][2] = c[j][3] = kMagicInt;
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        Q2Half half(w + k * kBlock, h);
                        bool mine = g / 2 == u32(k);
                        const u8 *from = mine ? x + g % 2 * 256 + t * 8 : zero;
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            u32 a[4], operand[2];
                            half.group(j, a);
                            load_octet(from, h * 4 + j, operand);
                            mma_s8(c[j], a, operand);
                        }
                        if (h == 1) add_q2_minima(w + k * kBlock, mine ? x + 576 + g % 2 * 64 + t * 16 : zero, minima);
                    }
                    Q2Factors f(w + t * kBlock);
                    float scales[4][2] = {{f.d0, f.d1}, {f.d0, f.d1}, {f.d0, f.d1}, {f.d0, f.d1}};
                    sums.add(0, c, scales, x + 512 + h * 16);
                    if (item.count > 1) sums.add(1, c, scales, x + 544 + h * 16);
                }
                Q2Factors f(w + t * kBlock);
#pragma unroll
                for (int k = 0; k < 2; k++)
                    sums.column[k][0] = fmaf(f.min0, minima[k], sums.column[k][0]), sums.column[k][1] = fmaf(f.min1, minima[2 + k], sums.column[k][1]);
                which ^= 1;
            }
            sums.keep(part, segment);
        } else {
            if (shared) {
                LaneColumns<1> columns = {{queue.slot(item, g)}, {queue.slot(item, 2 * t)}, {queue.slot(item, 2 * t + 1)}};
                for (u32 half = 0; half < 2 && unit * 4 + half * 2 < tiles; half++) {
                    u32 row = unit * 64 + half * 32 + lane;
                    unit_segments<Q8_0, 1>(p.shared, unit * 2 + half, nullptr, p.x, columns, part);
                    sync_block();
                    if (segment < item.count && row < p.routed.rows)
                        ptr<float>(p.y)[u64(queue.slot(item, segment)) * p.y_stride + row] = sum_segments<1>(part, s.count, lane, segment);
                    sync_block();
                }
            }
            if (there.routed) stage_tiles(there, first, which), stage_columns(there, first, which);
        }
        if (threadIdx.x == 0) queue.next[turn] = taken;
        sync_block();
        u32 after = queue.next[turn];
        if (!shared) {
            // Two warps have a column; which, changes.
            u32 worker = (segment - turn * 4) % 8, column = worker / 2, row = worker % 2 * 32 + lane, out = unit * 64 + row;
            if (column < item.count && out < p.routed.rows)
                ptr<float>(p.y)[u64(queue.slot(item, column)) * p.y_stride + out] = pair_sum(part, s.count, row / 16, kPair, column, row % 16);
        }
        if (queue.is_shared(next, p.n_expert)) sync_block();
        number = next, next = after, here = there;
    }
}
