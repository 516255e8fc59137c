// Mixture of experts: choice, grouping of a batch by expert, gate and up products with SwiGLU, down products, sums.
#include "expert_sort.cuh"
#include "experts.cuh"
#include "route.cuh"

/// Experts of each row by the largest score plus bias (the lower number first among equals), or by the token's table row.
/// grid: rows; 256 threads, of which the first warp chooses.
DS4_KERNEL_EARLY(route, 256, 4, RouteParams) {
    __shared__ RouteScores scores;
    u32 row = blockIdx.x;
    scores.load_bias(p);
    wait_for_inputs();
    scores.load(p, row);
    sync_block();
    if (threadIdx.x >= 32) return;
    u32 id;
    float weight;
    scores.choose(p, row, id, weight);
    if (threadIdx.x >= p.used) return;
    ptr<u32>(p.ids)[row * p.used + threadIdx.x] = id;
    ptr<float>(p.weights)[row * p.used + threadIdx.x] = weight;
}

struct GroupParams {
    u64 ids, list, items, item_count;
    u32 rows, used, n_expert, columns;
};

/// Columns of an item of the shared expert: those of the matrix instruction.
constexpr u32 kSharedColumns = 8;

/// Slots (row * (used + 1) + choice) sorted by expert, then by number, and the items to compute: runs of at most `columns` slots of
/// one expert. The shared expert, which every row has, comes first, as number n_expert. Behind the items' number come two zeros, from
/// which persistent blocks count. One block of 1024 threads.
DS4_KERNEL(group_slots, 1024, 1, GroupParams) {
    __shared__ ExpertPlaces places;
    u32 t = threadIdx.x, slots = p.used + 1, choices = p.rows * p.used;
    const u32 *ids = ptr<const u32>(p.ids);
    u32 *list = ptr<u32>(p.list);
    Item *items = ptr<Item>(p.items);
    places.count_choices(ids, choices, p.n_expert);
    for (u32 i = t; i < p.rows; i += 1024) list[i] = i * slots + p.used;
    u32 shared_items = div_up(p.rows, kSharedColumns);
    for (u32 i = t; i < shared_items; i += 1024)
        items[i] = {p.n_expert, i * kSharedColumns, min_u(kSharedColumns, p.rows - i * kSharedColumns), 0};
    if (t < 2) ptr<u32>(p.item_count)[1 + t] = 0;
    sync_block();
    if (t < 32) places.place(p.n_expert, p.columns, p.rows, shared_items, ptr<u32>(p.item_count));
    sync_block();
    for (u32 e = t; e < p.n_expert; e += 1024) places.write_items(e, p.columns, items);
    for (u32 e = t / 32; e < p.n_expert; e += 32)
        if (places.count[e] > 0) list_choices<true>(ids, 0, choices, e, p.used, list, places.first[e]);
}

template <u32 TYPE>
DS4_DEVICE void gate_up_unit(const ExpertParams &p, const u32 *grid, float *gate_part, float *up_part) {
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    const u32 *list = ptr<const u32>(p.list);
    LaneColumns<1> columns = item_columns(list, item, p.used + 1);
    bool is_shared = item.expert == p.n_expert;
    Weight gate = is_shared ? p.shared_gate : slab_of(p.gate, item.expert);
    Weight up = is_shared ? p.shared_up : slab_of(p.up, item.expert);
    if (!is_shared) {
        unit_segments<TYPE, 1>(gate, blockIdx.x, grid, p.x, columns, gate_part, item.count == 1);
        unit_segments<TYPE, 1>(up, blockIdx.x, grid, p.x, columns, up_part, item.count == 1);
    } else if (gate.type == Q8_0) {
        unit_segments<Q8_0, 1>(gate, blockIdx.x, grid, p.x, columns, gate_part);
        unit_segments<Q8_0, 1>(up, blockIdx.x, grid, p.x, columns, up_part);
    } else {
        unit_segments<F16, 1>(gate, blockIdx.x, grid, p.x, columns, gate_part);
        unit_segments<F16, 1>(up, blockIdx.x, grid, p.x, columns, up_part);
    }
    sync_block();
    u32 segments = segments_of(gate.blocks).count, row = threadIdx.x % 32, column = threadIdx.x / 32;
    if (column >= item.count) return;
    u32 slot = list[item.first + column], choice = slot % (p.used + 1), out = blockIdx.x * 32 + row;
    float weight = is_shared ? 1.0f : ptr<const float>(p.weights)[slot / (p.used + 1) * p.used + choice];
    float v = 0.0f;
    if (out < gate.rows)
        v = swiglu(sum_segments<1>(gate_part, segments, row, column), sum_segments<1>(up_part, segments, row, column), p.limit) * weight;
    emit_forms(p.mid, slot, out, v, true, p.halves);
}

/// Gate, up, SwiGLU and the routing weight of up to eight slots of one expert, by storage type of the routed experts.
/// grid: (units of 32 rows, items); 256 threads.
DS4_KERNEL(expert_gate_up_q8_0, 256, 2, ExpertParams) {
    __shared__ float gate[kPartFloats<1>], up[kPartFloats<1>];
    gate_up_unit<Q8_0>(p, nullptr, gate, up);
}
DS4_KERNEL(expert_gate_up_q2_k, 256, 2, ExpertParams) {
    __shared__ float gate[kPartFloats<1>], up[kPartFloats<1>];
    gate_up_unit<Q2_K>(p, nullptr, gate, up);
}
DS4_KERNEL(expert_gate_up_q4_k, 256, 2, ExpertParams) {
    __shared__ float gate[kPartFloats<1>], up[kPartFloats<1>];
    gate_up_unit<Q4_K>(p, nullptr, gate, up);
}
DS4_KERNEL(expert_gate_up_mxfp4, 256, 2, ExpertParams) {
    __shared__ float gate[kPartFloats<1>], up[kPartFloats<1>];
    gate_up_unit<MXFP4>(p, nullptr, gate, up);
}
DS4_KERNEL(expert_gate_up_iq2_xxs, 256, 2, ExpertParams) {
    __shared__ float gate[kPartFloats<1>], up[kPartFloats<1>];
    __shared__ u32 grid[kGridWords];
    load_grid(grid);
    gate_up_unit<IQ2_XXS>(p, grid, gate, up);
}

struct SwigluParams {
    u64 gate, up, weights;
    Rows mid;
    u32 n_ff, used, slots;
    float limit;
    u32 integers, halves;
};

/// SwiGLU and the routing weight of every slot, and the forms of the result. grid: (slots * blocks of 256 columns / 8); 256 threads of
/// eight columns each.
DS4_KERNEL(swiglu_slots, 256, 4, SwigluParams) {
    u32 i = blockIdx.x * 256 + threadIdx.x, per_slot = p.mid.blocks * 32, slot = i / per_slot, column = i % per_slot * 8;
    // Whole warps: a slot has blocks of 256 columns.
    if (slot >= p.slots) return;
    u32 choice = slot % (p.used + 1);
    float weight = choice == p.used ? 1.0f : ptr<const float>(p.weights)[slot / (p.used + 1) * p.used + choice];
    float gate[8], up[8], v[8];
    load_eight(ptr<const float>(p.gate) + u64(slot) * p.n_ff, column, p.n_ff, gate);
    load_eight(ptr<const float>(p.up) + u64(slot) * p.n_ff, column, p.n_ff, up);
    float *out = ptr<float>(p.mid.f) + u64(slot) * p.mid.stride + column;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        v[k] = column + k < p.n_ff ? swiglu(gate[k], up[k], p.limit) * weight : 0.0f;
        // int8 products do not read float32.
        if (!p.integers && column + k < p.n_ff) out[k] = v[k];
    }
    emit_eight(p.mid, u64(i) * 8, v, p.integers, p.halves);
}

template <u32 TYPE>
DS4_DEVICE void down_unit(const DownParams &p, const u32 *grid, float *part) {
    if (blockIdx.y >= *ptr<const u32>(p.item_count)) return;
    Item item = ptr<const Item>(p.items)[blockIdx.y];
    const u32 *list = ptr<const u32>(p.list);
    LaneColumns<1> columns = item_columns(list, item, 1);
    bool is_shared = item.expert == p.n_expert;
    Weight w = is_shared ? p.shared : slab_of(p.routed, item.expert);
    if (!is_shared) unit_segments<TYPE, 1>(w, blockIdx.x, grid, p.x, columns, part, item.count == 1);
    else if (w.type == Q8_0) unit_segments<Q8_0, 1>(w, blockIdx.x, grid, p.x, columns, part);
    else unit_segments<F16, 1>(w, blockIdx.x, grid, p.x, columns, part);
    sync_block();
    u32 row = threadIdx.x % 32, column = threadIdx.x / 32, out = blockIdx.x * 32 + row;
    if (column < item.count && out < w.rows)
        ptr<float>(p.y)[u64(list[item.first + column]) * p.y_stride + out] =
            sum_segments<1>(part, segments_of(w.blocks).count, row, column);
}

/// Down products of up to eight slots of one expert. grid: (units of 32 rows, items); 256 threads.
DS4_KERNEL(expert_down_q8_0, 256, 2, DownParams) {
    __shared__ float part[kPartFloats<1>];
    down_unit<Q8_0>(p, nullptr, part);
}
DS4_KERNEL(expert_down_q2_k, 256, 2, DownParams) {
    __shared__ float part[kPartFloats<1>];
    down_unit<Q2_K>(p, nullptr, part);
}
DS4_KERNEL(expert_down_q4_k, 256, 2, DownParams) {
    __shared__ float part[kPartFloats<1>];
    down_unit<Q4_K>(p, nullptr, part);
}
DS4_KERNEL(expert_down_mxfp4, 256, 2, DownParams) {
    __shared__ float part[kPartFloats<1>];
    down_unit<MXFP4>(p, nullptr, part);
}
DS4_KERNEL(expert_down_iq2_xxs, 256, 2, DownParams) {
    __shared__ float part[kPartFloats<1>];
    __shared__ u32 grid[kGridWords];
    load_grid(grid);
    down_unit<IQ2_XXS>(p, grid, part);
}

struct CombineParams {
    u64 parts, output;
    u32 n_embd, slots;
};

/// The sum of a row's slots in their order. grid: (columns / 256, rows).
DS4_KERNEL(combine_slots, 256, 4, CombineParams) {
    u32 row = blockIdx.y, column = blockIdx.x * 256 + threadIdx.x;
    if (column >= p.n_embd) return;
    const float *parts = ptr<const float>(p.parts) + u64(row) * p.slots * p.n_embd + column;
    float sum = parts[0];
    for (u32 s = 1; s < p.slots; s++) sum += parts[u64(s) * p.n_embd];
    ptr<float>(p.output)[u64(row) * p.n_embd + column] = sum;
}
