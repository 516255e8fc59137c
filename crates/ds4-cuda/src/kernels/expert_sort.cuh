// Slots (row * (used + 1) + choice) sorted by expert: the pieces that small and large batches share.
#pragma once
#include "product.cuh"

constexpr int kMostExperts = 512;

/// Of each expert: how many slots it has, its first place in the list, and its first item. In shared memory, for 1024 threads.
struct ExpertPlaces {
    u32 count[kMostExperts], first[kMostExperts], first_item[kMostExperts];

    /// Counts the choices; a barrier has to follow.
    DS4_MEMBER void count_choices(const u32 *ids, u32 choices, u32 n_expert) {
        for (u32 e = threadIdx.x; e < n_expert; e += 1024) count[e] = 0;
        sync_block();
        for (u32 i = threadIdx.x; i < choices; i += 1024) atomic_add(&count[ids[i]], 1);
    }

    /// Sums counts up, from a first slot and a first item on; the number of items goes to `item_count`. One warp does it.
    DS4_MEMBER void place(u32 n_expert, u32 columns, u32 first_slot, u32 first_of_items, u32 *item_count) {
        // Lane l has the experts from l * per on.
        u32 lane = threadIdx.x, per = div_up(n_expert, 32), slots_here = 0, items_here = 0;
        for (u32 e = lane * per; e < min_u(lane * per + per, n_expert); e++)
            slots_here += count[e], items_here += div_up(count[e], columns);
        u32 slot = slots_here, item = items_here;
        for (u32 step = 1; step < 32; step *= 2) {
            u32 other_slot = shuffle(slot, int(lane - step)), other_item = shuffle(item, int(lane - step));
            if (lane >= step) slot += other_slot, item += other_item;
        }
        if (lane == 31) *item_count = first_of_items + item;
        slot += first_slot - slots_here, item += first_of_items - items_here;
        for (u32 e = lane * per; e < min_u(lane * per + per, n_expert); e++) {
            first[e] = slot, first_item[e] = item;
            slot += count[e], item += div_up(count[e], columns);
        }
    }

    /// The items of expert e: runs of at most `columns` of its slots.
    DS4_MEMBER void write_items(u32 e, u32 columns, Item *items) const {
        for (u32 i = 0; i * columns < count[e]; i++)
            items[first_item[e] + i] = {e, first[e] + i * columns, min_u(columns, count[e] - i * columns), 0};
    }
};

/// Goes through choices `begin` to `end` with a warp. Every one for expert e takes the next place from `at` on, and its slot is
/// written there if WRITE. Returns the place behind the last.
template <bool WRITE>
DS4_DEVICE u32 list_choices(const u32 *ids, u32 begin, u32 end, u32 e, u32 used, u32 *list, u32 at) {
    // Several loads on their way at a time.
    constexpr int kBatch = 8;
    u32 lane = threadIdx.x % 32;
    for (u32 base = begin; base < end; base += 32 * kBatch) {
        u32 id[kBatch];
#pragma unroll
        for (int k = 0; k < kBatch; k++) id[k] = base + k * 32 + lane < end ? ids[base + k * 32 + lane] : ~0u;
#pragma unroll
        for (int k = 0; k < kBatch; k++) {
            u32 i = base + k * 32 + lane, votes = warp_votes(id[k] == e);
            if (WRITE && id[k] == e) list[at + count_bits(votes & ((1u << lane) - 1))] = i / used * (used + 1) + i % used;
            at += count_bits(votes);
        }
    }
    return at;
}
