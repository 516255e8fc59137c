// Experts of a batch of one row: nothing to sort, and every block has all of its memory's traffic to itself.
//
// A warp has one segment of a tile, or of both tiles of 32 rows. Sums as in `experts.cu`, in the same order.
#include "forms.cuh"
#include "product.cuh"

struct ExpertOneParams {
    Weight gate, up, shared_gate, shared_up;
    Rows x, mid;
    u64 ids, weights;
    u32 used;
    float limit;
    u32 halves, pad;
};

/// The columns of x of a batch of one row (or slot): all the same.
DS4_DEVICE LaneColumns<1> one_column(u32 row) { return {{row}, {row}, {row}}; }

/// One warp's segment of a tile, times one column: row g in `low`, row g + 8 in `high` (of lanes with t = 0).
template <u32 TYPE>
DS4_DEVICE void one_segment(const Weight &w, u32 tile, u32 segment, const u32 *grid, const Rows &x, u32 row, float *part) {
    Segments s = segments_of(w.blocks);
    if (segment >= s.count || tile >= div_up(w.rows, 16)) return;
    float acc[1][4];
    u32 first = segment * s.blocks;
    segment_product<TYPE, 1>(w, tile, first, min_u(first + s.blocks, w.blocks), grid, x, one_column(row), acc);
    u32 lane = threadIdx.x % 32;
    if (lane % 4 == 0) part[segment * 16 + lane / 4] = acc[0][0], part[segment * 16 + 8 + lane / 4] = acc[0][2];
}

/// One warp's segment of the same tile of two matrices, times one column.
template <u32 TYPE>
DS4_DEVICE void one_segment_of_two(const Weight &a, const Weight &b, u32 tile, u32 segment, const u32 *grid, const Rows &x,
                                   u32 row_a, u32 row_b, float *part_a, float *part_b) {
    if constexpr (TYPE == Q8_0 || TYPE == F16) {
        one_segment<TYPE>(a, tile, segment, grid, x, row_a, part_a);
        one_segment<TYPE>(b, tile, segment, grid, x, row_b, part_b);
    } else {
        Segments s = segments_of(a.blocks);
        if (segment >= s.count || tile >= div_up(a.rows, 16)) return;
        float acc_a[1][4] = {}, acc_b[1][4] = {};
        LaneColumns<1> columns_a = one_column(row_a), columns_b = one_column(row_b);
        u32 lane = threadIdx.x % 32, first = segment * s.blocks, last = min_u(first + s.blocks, a.blocks);
        // Two blocks of each on their way together.
        for (u32 begin = first; begin < last; begin += 2) {
            BlockOf<TYPE> block_a[2], block_b[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                if (begin + k >= last) break;
                u64 at = u64(tile) * a.blocks + begin + k;
                block_a[k].load_from(a, at, lane, grid), block_b[k].load_from(b, at, lane, grid);
            }
#pragma unroll
            for (int k = 0; k < 2; k++) {
                if (begin + k >= last) break;
                GlobalColumns<1> from_a = {x, columns_a, begin + k, lane % 4}, from_b = {x, columns_b, begin + k, lane % 4};
                accumulate_block<TYPE, 1, true>(block_a[k], grid, from_a, acc_a);
                accumulate_block<TYPE, 1, true>(block_b[k], grid, from_b, acc_b);
            }
        }
        if (lane % 4 == 0) {
            part_a[segment * 16 + lane / 4] = acc_a[0][0], part_a[segment * 16 + 8 + lane / 4] = acc_a[0][2];
            part_b[segment * 16 + lane / 4] = acc_b[0][0], part_b[segment * 16 + 8 + lane / 4] = acc_b[0][2];
        }
    }
}

/// Sum of the segments of row `row` of a tile.
DS4_DEVICE float one_sum(const float *part, u32 segments, u32 row) {
    float sum = part[row];
    for (u32 s = 1; s < segments; s++) sum += part[s * 16 + row];
    return sum;
}

template <u32 TYPE>
DS4_DEVICE void gate_up_one(const ExpertOneParams &p, const u32 *grid) {
    __shared__ float part[2][2][8 * 16];
    u32 segment = threadIdx.x / 32, unit = blockIdx.x;
    bool is_shared = blockIdx.y == 0;
    if (is_shared) prefetch_unit(p.shared_gate, unit), prefetch_unit(p.shared_up, unit);
    wait_for_inputs();
    u32 slot = is_shared ? p.used : blockIdx.y - 1;
    u32 expert = is_shared ? 0 : ptr<const u32>(p.ids)[slot];
    Weight gate = is_shared ? p.shared_gate : slab_of(p.gate, expert), up = is_shared ? p.shared_up : slab_of(p.up, expert);
    for (u32 tile = 0; tile < 2; tile++) {
        u32 at = unit * 2 + tile;
        if (!is_shared) one_segment_of_two<TYPE>(gate, up, at, segment, grid, p.x, 0, 0, part[0][tile], part[1][tile]);
        else if (gate.type == Q8_0) one_segment_of_two<Q8_0>(gate, up, at, segment, grid, p.x, 0, 0, part[0][tile], part[1][tile]);
        else one_segment_of_two<F16>(gate, up, at, segment, grid, p.x, 0, 0, part[0][tile], part[1][tile]);
    }
    sync_block();
    if (threadIdx.x >= 32) return;
    u32 row = threadIdx.x, segments = segments_of(gate.blocks).count, out = unit * 32 + row;
    float weight = is_shared ? 1.0f : ptr<const float>(p.weights)[slot], v = 0.0f;
    if (out < gate.rows)
        v = swiglu(one_sum(part[0][row / 16], segments, row % 16), one_sum(part[1][row / 16], segments, row % 16), p.limit) * weight;
    emit_forms(p.mid, slot, out, v, true, p.halves);
}

struct DownOneParams {
    Weight routed, shared;
    Rows x;
    u64 ids, y;
    u32 used, pad;
};

/// All slots of 32 rows of the output, added in their order.
template <u32 TYPE>
DS4_DEVICE void down_one(const DownOneParams &p, const u32 *grid) {
    DS4_DYNAMIC_SHARED(memory);
    float *part = reinterpret_cast<float *>(memory);
    u32 tile = threadIdx.x / 32 / 8, segment = threadIdx.x / 32 % 8, unit = blockIdx.x;
    prefetch_unit(p.shared, unit);
    wait_for_inputs();
    const u32 *ids = ptr<const u32>(p.ids);
    for (u32 slot = 0; slot + 1 < p.used; slot += 2) {
        Weight a = slab_of(p.routed, ids[slot]), b = slab_of(p.routed, ids[slot + 1]);
        one_segment_of_two<TYPE>(a, b, unit * 2 + tile, segment, grid, p.x, slot, slot + 1, part + (slot * 2 + tile) * 128,
                                 part + (slot * 2 + 2 + tile) * 128);
    }
    if (p.used % 2 == 1) {
        u32 slot = p.used - 1;
        Weight w = slab_of(p.routed, ids[slot]);
        one_segment<TYPE>(w, unit * 2 + tile, segment, grid, p.x, slot, part + (slot * 2 + tile) * 128);
    }
    float *last = part + (p.used * 2 + tile) * 128;
    if (p.shared.type == Q8_0) one_segment<Q8_0>(p.shared, unit * 2 + tile, segment, grid, p.x, p.used, last);
    else one_segment<F16>(p.shared, unit * 2 + tile, segment, grid, p.x, p.used, last);
    sync_block();
    u32 row = threadIdx.x, out = unit * 32 + row, segments = segments_of(p.shared.blocks).count;
    if (row >= 32 || out >= p.shared.rows) return;
    float sum = one_sum(part + row / 16 * 128, segments, row % 16);
    for (u32 slot = 1; slot <= p.used; slot++) sum += one_sum(part + (slot * 2 + row / 16) * 128, segments, row % 16);
    ptr<float>(p.y)[out] = sum;
}

#define DS4_EXPERTS_ONE(suffix, TYPE)                                          \
    DS4_KERNEL_EARLY(expert_gate_up_one_##suffix, 256, 2, ExpertOneParams) {   \
        __shared__ u32 grid[TYPE == IQ2_XXS ? kGridWords : 1];                 \
        if (TYPE == IQ2_XXS) load_grid(grid);                                  \
        gate_up_one<TYPE>(p, grid);                                            \
    }                                                                          \
    DS4_KERNEL_EARLY(expert_down_one_##suffix, 512, 1, DownOneParams) {        \
        __shared__ u32 grid[TYPE == IQ2_XXS ? kGridWords : 1];                 \
        if (TYPE == IQ2_XXS) load_grid(grid);                                  \
        down_one<TYPE>(p, grid);                                               \
    }

// Gate and up, grid: (units of 32 rows, slots), the shared expert first; 256 threads. Down, grid: units of 32 rows; 512 threads:
// warps have one tile each.
DS4_EXPERTS_ONE(q8_0, Q8_0)
DS4_EXPERTS_ONE(q2_k, Q2_K)
DS4_EXPERTS_ONE(q4_k, Q4_K)
DS4_EXPERTS_ONE(mxfp4, MXFP4)
DS4_EXPERTS_ONE(iq2_xxs, IQ2_XXS)
