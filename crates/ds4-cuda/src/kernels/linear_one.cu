// Matrix products of a batch of one row, with weights on their way before the row is there. Sums as in `linear_few.cu`, in the same order.
//
// What else waits for the same kernel ahead, the row's entries in the cache, has blocks of its own.
#include "cache.cuh"
#include "one_input.cuh"
#include "units.cuh"

struct SmallProductParams {
    SmallProduct products[kMaxProducts];
    OneInput input;
    /// Where outcomes go that are not plain: row `out_row`.
    Rows out;
    CacheParams cache;
    u32 units, out_row;
    float limit;
    /// Whether `out` needs float16, too.
    u32 halves;
    /// Blocks in front of the others that write to the cache.
    u32 roles, pad;
};

/// Most items of a unit, and floats of an item's sums.
constexpr u32 kMostItems = 32, kSlot = 16;

/// Half a block of Q8_0, groups `group` to `group` + 3 of the row.
DS4_DEVICE void add_integers(const u8 *stage, const Staged &x, u32 group, float (&acc)[4]) {
    u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 codes[4];
    uint2 x_codes[4];
#pragma unroll
    for (int i = 0; i < 4; i++) codes[i] = load<uint4>(stage + i * 512 + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) x_codes[i] = load<uint2>(x.codes() + (group + i) * 32 + t * 8);
    float4 d4 = load<float4>(x.scales() + group);
    uint2 scale0 = load<uint2>(stage + kStepCodes + g * 8), scale1 = load<uint2>(stage + kStepCodes + g * 8 + 64);
    float d[4] = {d4.x, d4.y, d4.z, d4.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 shift = i % 2 * 16;
        float s0 = half_to_float(u16((i < 2 ? scale0.x : scale0.y) >> shift));
        float s1 = half_to_float(u16((i < 2 ? scale1.x : scale1.y) >> shift));
        int c[4] = {kMagicInt, kMagicInt, kMagicInt, kMagicInt};
        u32 a[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w}, b[2] = {x_codes[i].x, x_codes[i].y};
        mma_s8(c, a, b);
        acc[0] = fmaf(magic_sum(c[0]), s0 * d[i], acc[0]);
        acc[2] = fmaf(magic_sum(c[2]), s1 * d[i], acc[2]);
    }
}

/// A quarter of a block of float16, groups `group` and the next.
DS4_DEVICE void add_halves_of(const u8 *stage, const Staged &x, u32 group, float (&acc)[4]) {
    u32 lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 r0 = load<uint4>(stage + i * 1024 + lane * 16), r1 = load<uint4>(stage + i * 1024 + 512 + lane * 16);
        u32 at = (group + i) * 32 + t * 8;
        uint4 hi = load<uint4>(x.halves() + at), lo = load<uint4>(x.halves() + x.padded + at);
        mma_f16(acc, r0.x, r1.x, r0.y, r1.y, hi.x, hi.y);
        mma_f16(acc, r0.x, r1.x, r0.y, r1.y, lo.x, lo.y);
        mma_f16(acc, r0.z, r1.z, r0.w, r1.w, hi.z, hi.w);
        mma_f16(acc, r0.z, r1.z, r0.w, r1.w, lo.z, lo.w);
    }
}

/// What becomes of 32 rows of a unit whose segments' sums are in `part`: rows of tiles `slot` and the next, a row per lane.
DS4_DEVICE void finish_rows(const SmallProductParams &p, u32 index, u32 unit, u32 slot, const float *part) {
    const SmallProduct &product = p.products[index];
    u32 lane = threadIdx.x % 32, count = product.segments;
    u32 out = ((unit - product.unit_begin) * product.tiles + slot) * 16 + lane;
    auto sum_of = [&](u32 from_slot) {
        const float *from = part + (from_slot + lane / 16) * count * kSlot + lane % 16;
        float values[8], sum;
#pragma unroll
        for (u32 s = 0; s < 8; s++) values[s] = s < count ? from[s * kSlot] : 0.0f;
        sum = values[0];
#pragma unroll
        for (u32 s = 1; s < 8; s++)
            if (s < count) sum += values[s];
        return sum;
    };
    bool inside = out < product.w.rows;
    float v = inside ? sum_of(slot) : 0.0f;
    if (product.outcome == kPlain) {
        if (inside) ptr<float>(product.y)[out] = v * product.scale;
        return;
    }
    if (product.outcome == kGated) v = inside ? swiglu(v, sum_of(product.tiles + slot), p.limit) : 0.0f;
    emit_forms(p.out, p.out_row, out, v, true, p.halves);
}

/// The row's entry in the cache, and what the cache keeps behind it: for a batch of one row attention reads neither the ring's slot nor
/// the frontier.
DS4_APART void cache_role(const CacheParams &p, u32 role, float *scratch) {
    RowInfo info = *ptr<const RowInfo>(p.rows);
    append_row(p, 0, role, info, scratch);
    sync_block();
    commit_row(p, 0, role, info);
}

template <int STAGES>
DS4_DEVICE void linear_units(const SmallProductParams &p) {
    DS4_DYNAMIC_SHARED(memory);
    __shared__ float scratch[32], slices[kParts * kSums], mix[kSums];
    if (blockIdx.x < p.roles) {
        wait_for_inputs();
        cache_role(p.cache, blockIdx.x, scratch);
        return;
    }
    InputWeights weights = input_weights(p.input);
    Share mine = share_of(p.products[0], p.units, blockIdx.x - p.roles, gridDim.x - p.roles, 1);
    u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Cursor ahead = cursor_at(p.products, mine);
    auto fill = [&](u8 *to) { fill_stage(p.products, ahead, to, mine); };
    Ring<STAGES, kStepBytes> ring;
    ring.start(memory + warp * (STAGES * kStepBytes), fill);
    u8 *behind = memory + warps * STAGES * kStepBytes;
    float *parts = reinterpret_cast<float *>(behind);
    u8 *input = behind + 2 * kMostItems * kSlot * 4;
    const Staged x = {input, p.input.x.blocks * 256};
    wait_for_inputs();

    u32 staged = ~0u, turn = 0;
    // Blocks without units have a part in what comes with the input. Before the units: its weights would take registers there.
    if (is_made(p.input)) {
        stage_made(p.input, weights, input, scratch, slices, mix);
        sync_block();
        mark(4);
        staged = 0;
    }
    for (u32 unit = mine.first, index = 0; unit < mine.end; unit += mine.step, turn ^= 1) {
        while (unit >= p.products[index].unit_end) index++;
        const SmallProduct &product = p.products[index];
        u32 row = product.group_rows == 0 ? 0 : (unit - product.unit_begin) * product.tiles * 16 / product.group_rows;
        if (row != staged) {
            if (staged != ~0u) sync_block();
            stage_row(p.input, row, input);
            sync_block();
            mark(4);
            staged = row;
        }
        float *part = parts + turn * (kMostItems * kSlot);
        bool integers = product.w.type == Q8_0;
        for (u32 item = warp; item < items_of(product); item += warps) {
            ItemPlace at = place_of(product, unit, item);
            if (!at.exists) continue;
            float acc[4] = {};
            if (integers) {
#pragma unroll 1
                for (u32 step = at.first * 2; step < at.last * 2; step++) {
                    add_integers(ring.take(), x, step * 4, acc);
                    ring.give(fill);
                }
            } else {
#pragma unroll 1
                for (u32 step = at.first * 4; step < at.last * 4; step++) {
                    add_halves_of(ring.take(), x, step * 2, acc);
                    ring.give(fill);
                }
            }
            if (t == 0) part[item * kSlot + g] = acc[0], part[item * kSlot + g + 8] = acc[2];
        }
        mark(5);
        sync_block();
        mark(6);
        // Others go on with the next unit, whose sums have another place.
        if (warp * 2 < product.tiles) finish_rows(p, index, unit, warp * 2, part);
    }
}

/// grid: `roles` blocks, then blocks that share the units of all products; 512 threads, or fewer where shared memory is short. For Q8_0
/// and F16.
DS4_KERNEL_EARLY(linear_one_3, 512, 1, SmallProductParams) { linear_units<3>(p); }
DS4_KERNEL_EARLY(linear_one_4, 512, 1, SmallProductParams) { linear_units<4>(p); }
DS4_KERNEL_EARLY(linear_one_5, 512, 1, SmallProductParams) { linear_units<5>(p); }
