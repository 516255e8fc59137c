// Slots of large batches sorted by expert, with a block for each expert.
#include "expert_sort.cuh"

struct SortParams {
    u64 ids, list, items, item_count, starts;
    u32 rows, used, n_expert, columns;
};

/// How many slots each expert has: where its part of the list starts, and its items, runs of at most `columns` slots.
/// One block of 1024 threads.
DS4_KERNEL(expert_items, 1024, 1, SortParams) {
    __shared__ ExpertPlaces places;
    u32 t = threadIdx.x;
    places.count_choices(ptr<const u32>(p.ids), p.rows * p.used, p.n_expert);
    sync_block();
    if (t < 32) places.place(p.n_expert, p.columns, 0, 0, ptr<u32>(p.item_count));
    sync_block();
    for (u32 e = t; e < p.n_expert; e += 1024) {
        ptr<u32>(p.starts)[e] = places.first[e];
        places.write_items(e, p.columns, ptr<Item>(p.items));
    }
}

/// The slots of each expert, ascending. grid: experts; 256 threads, of which each warp looks through an eighth of the batch.
DS4_KERNEL(expert_list, 256, 4, SortParams) {
    __shared__ u32 counts[8];
    u32 e = blockIdx.x, warp = threadIdx.x / 32, choices = p.rows * p.used;
    const u32 *ids = ptr<const u32>(p.ids);
    u32 part = div_up(div_up(choices, 8), 32) * 32, begin = warp * part, end = min_u(begin + part, choices);
    u32 count = list_choices<false>(ids, begin, end, e, p.used, nullptr, 0);
    if (threadIdx.x % 32 == 0) counts[warp] = count;
    sync_block();
    u32 at = ptr<const u32>(p.starts)[e];
    for (u32 w = 0; w < warp; w++) at += counts[w];
    list_choices<true>(ids, begin, end, e, p.used, ptr<u32>(p.list), at);
}
