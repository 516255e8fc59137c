// Matrix products of large batches on warpgroup instructions: 128 rows of a matrix times 128 columns of the batch per block, for Q8_0 and
// F16.
//
// Four warps bring weights and columns into shared memory, in steps of 128 columns of W (64 of float16). Each of two warpgroups has 64
// rows. With Q8_0 it adds a group's scaled sums for 64 columns while the instruction makes those of the other 64.
// All of the shared memory is taken.
#undef DS4_TIMELINE
#include "linear_large.cuh"
#include "wgmma.cuh"

constexpr int kStages = 4;
constexpr u32 kConsumers = 2;

/// Four groups of 32.
struct alignas(1024) CodeStage {
    /// By column.
    uint4 codes[kColumns][8];
    uint4 weights[kRowTiles][4][32];
    float scales[4][kColumns];
    /// Of rows: [tile][row][group].
    u16 row_scales[kRowTiles][16][4];
};

/// Two groups of float16 weights and columns, pair q of octet o as pair o of piece q of its group.
struct alignas(1024) HalvesStage {
    uint4 hi[kColumns][8], lo[kColumns][8];
    uint4 weights[kRowTiles][2][2][32];
};

struct GroupMemory {
    union {
        CodeStage codes;
        HalvesStage halves;
    } stage[kStages];
    RingBarriers<kStages> barriers;
};

/// What a block computes next: rows of a matrix times columns of the batch.
struct LinearUnit {
    const Product &product;
    /// First column, first tile of rows, and the rows' group.
    u32 first, tile, group;

    DS4_MEMBER static LinearUnit number(const ProductParams &p, u32 number, u32 column_blocks) {
        u32 index = 0, unit = number / column_blocks;
        while (unit >= p.products[index].unit_end) index++;
        if (index > 0) unit -= p.products[index - 1].unit_end;
        const Product &product = p.products[index];
        u32 group = product.group_rows == 0 ? 0 : unit * (kRowTiles * 16) / product.group_rows;
        return {product, number % column_blocks * kColumns, unit * kRowTiles, group};
    }
    /// Row of x of a column; columns behind the last repeat it.
    DS4_MEMBER u32 row(const ProductParams &p, u32 column) const {
        return min_u(first + column, p.rows - 1) * product.x_rows + group;
    }
};

typedef RingPlace<kStages> Ring;

/// Declares a stage filled when this thread's copies are there and what it wrote is.
DS4_DEVICE void stage_filled(GroupMemory &m, Ring &ring) {
    m.barriers.filled[ring.slot].arrive_after_copies();
    m.barriers.filled[ring.slot].arrive();
    ring.next();
}

/// Brings weights and columns of a unit; 128 threads.
DS4_DEVICE void bring_codes(GroupMemory &m, const ProductParams &p, const LinearUnit &unit, Ring &ring) {
    const Weight &w = unit.product.w;
    const Rows &x = p.x;
    u32 t = threadIdx.x % 128, tiles = min_u(kRowTiles, div_up(w.rows, 16) - unit.tile);
    const u8 *weights = ptr<const u8>(w.codes) + u64(unit.tile) * w.blocks * Layout<Q8_0>::codes + t * 16;
    u32 tile_stride = w.blocks * Layout<Q8_0>::codes;
    const u8 *row_scales =
        ptr<const u8>(w.scales) + u64(unit.tile + min_u(t / 16, tiles - 1)) * w.blocks * Layout<Q8_0>::scales + t % 16 * 16;
    const u8 *codes = ptr<const u8>(x.turned) + t % 8 * 16;
    const u8 *scales = ptr<const u8>(x.d) + u64(unit.row(p, t)) * x.blocks * 32;
    u32 piece = t % 8 ^ t / 8 % 8, place = scale_place(t), columns[8];
#pragma unroll
    for (int k = 0; k < 8; k++) columns[k] = unit.row(p, t / 8 + 16 * k) * x.blocks * 256;
    // Scales change their order on the way: they pass through registers, one step ahead.
    u32 steps = w.blocks * 2;
    float4 next = load<float4>(scales);
    for (u32 step = 0; step < steps; step++) {
        m.barriers.empty[ring.slot].wait(ring.parity);
        CodeStage &to = m.stage[ring.slot].codes;
#pragma unroll
        for (int k = 0; k < 8; k++) copy_stream(&to.codes[t / 8 + 16 * k][piece], codes + columns[k]);
#pragma unroll
        for (u32 k = 0; k < kRowTiles; k++)
            if (k < tiles) copy_stream(&to.weights[k][0][0] + t, weights + u64(k * tile_stride));
        copy_async<8>(&to.row_scales[t / 16][t % 16][0], row_scales);
        to.scales[0][place] = next.x, to.scales[1][place] = next.y, to.scales[2][place] = next.z, to.scales[3][place] = next.w;
        scales += 16;
        if (step + 1 < steps) next = load<float4>(scales);
        codes += 128, weights += 2048;
        row_scales += step % 2 == 0 ? 8 : Layout<Q8_0>::scales - 8;
        stage_filled(m, ring);
    }
}

/// The same of float16.
DS4_DEVICE void bring_halves(GroupMemory &m, const ProductParams &p, const LinearUnit &unit, Ring &ring) {
    const Weight &w = unit.product.w;
    u32 t = threadIdx.x % 128, lane = t % 32, tiles = min_u(kRowTiles, div_up(w.rows, 16) - unit.tile);
    const u8 *weights = ptr<const u8>(w.codes) + u64(unit.tile) * w.blocks * Layout<F16>::codes + t * 16;
    u32 tile_stride = w.blocks * Layout<F16>::codes;
    // A warp brings a column's 32 pairs of elements; pair q of octet o comes to be pair o of piece q of its group.
    const u8 *hi = ptr<const u8>(p.x.hi) + lane * 4, *lo = ptr<const u8>(p.x.lo) + lane * 4;
    u32 piece = lane / 16 * 4 + lane % 4, pair = lane % 16 / 4;
    for (u32 step = 0; step < w.blocks * 4; step++) {
        m.barriers.empty[ring.slot].wait(ring.parity);
        HalvesStage &to = m.stage[ring.slot].halves;
#pragma unroll 8
        for (u32 column = t / 32; column < kColumns; column += 4) {
            u64 from = u64(unit.row(p, column) * p.x.blocks) * 512;
            copy_async<4>(&to.hi[column][piece ^ column % 8].x + pair, hi + from);
            copy_async<4>(&to.lo[column][piece ^ column % 8].x + pair, lo + from);
        }
#pragma unroll
        for (u32 k = 0; k < kRowTiles; k++)
            if (k < tiles) copy_stream(&to.weights[k][0][0][0] + t, weights + u64(k * tile_stride));
        hi += 128, lo += 128, weights += 2048;
        stage_filled(m, ring);
    }
}

/// Adds a segment to those before; the next one begins with zero.
DS4_DEVICE void fold(float (&segment)[2][8][4], float (&total)[2][8][4]) {
#pragma unroll
    for (int k = 0; k < 64; k++) {
        total[k / 32][k / 4 % 8][k % 4] += segment[k / 32][k / 4 % 8][k % 4];
        segment[k / 32][k / 4 % 8][k % 4] = 0.0f;
    }
}

/// Multiplies float16: the sums of a segment stay where the instruction has them.
DS4_DEVICE void use_halves_stages(GroupMemory &m, const Weight &w, u32 warp, u32 lane, Ring &ring, float (&total)[2][8][4]) {
    u32 steps = w.blocks * 4, per_segment = segments_of(w.blocks).blocks * 4, left = per_segment;
    float segment[2][8][4] = {};
    for (u32 step = 0; step < steps; step++) {
        m.barriers.filled[ring.slot].wait(ring.parity);
        fence_copies();
        const HalvesStage &from = m.stage[ring.slot].halves;
        u32 a[2][8];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 r0 = from.weights[warp][i][0][lane], r1 = from.weights[warp][i][1][lane];
            a[i][0] = r0.x, a[i][1] = r1.x, a[i][2] = r0.y, a[i][3] = r1.y;
            a[i][4] = r0.z, a[i][5] = r1.z, a[i][6] = r0.w, a[i][7] = r1.w;
        }
        begin_group();
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                add_halves_group(segment[half], a[i], WideColumns(from.hi[half * 64]), WideColumns(from.lo[half * 64]), i * 64);
        end_group();
        wait_all(segment, a);
        sync_warp();
        if (lane == 0) m.barriers.empty[ring.slot].arrive();
        ring.next();
        if (--left == 0 || step + 1 == steps) fold(segment, total), left = per_segment;
    }
}

/// Multiplies: a warp has one tile of rows and all columns, of which it takes half at a time.
DS4_DEVICE void use_codes(GroupMemory &m, const Weight &w, u32 warp, u32 lane, Ring &ring, float (&total)[2][8][4]) {
    u32 g = lane / 4, t = lane % 4, steps = w.blocks * 2, per_segment = segments_of(w.blocks).blocks * 2, left = per_segment;
    int sums[2][8][4] = {};
    float segment[2][8][4] = {};
    u32 a[2][4];
    auto operand = [&](const CodeStage &from, int group, u32(&to)[4]) {
        uint4 v = from.weights[warp][group][lane];
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    };
    auto start = [&](const CodeStage &from, int group, int half) {
        start_group<8>(sums[half], a[group % 2], WideColumns(from.codes[half * 64]), group * 32);
    };
    for (u32 step = 0; step < steps; step++) {
        m.barriers.filled[ring.slot].wait(ring.parity);
        fence_copies();
        const CodeStage &from = m.stage[ring.slot].codes;
        uint2 row_scales[2] = {load<uint2>(from.row_scales[warp][g]), load<uint2>(from.row_scales[warp][g + 8])};
        operand(from, 0, a[0]);
        start(from, 0, 0);
        start(from, 0, 1);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < 3) operand(from, i + 1, a[(i + 1) % 2]);
            float s0 = half_to_float(u16((i < 2 ? row_scales[0].x : row_scales[0].y) >> (i % 2 * 16)));
            float s1 = half_to_float(u16((i < 2 ? row_scales[1].x : row_scales[1].y) >> (i % 2 * 16)));
            ColumnScales<8> scales;
            scales.load_from(from.scales[i] + t * 4);
            wait_group<1>(sums[0], a[i % 2]);
            add_scaled(sums[0], s0, s1, scales, segment[0]);
            if (i < 3) start(from, i + 1, 0);
            scales.load_from(from.scales[i] + 64 + t * 4);
            if (i < 3) wait_group<1>(sums[1], a[i % 2]);
            else wait_group<0>(sums[1], a[i % 2]);
            add_scaled(sums[1], s0, s1, scales, segment[1]);
            if (i < 3) start(from, i + 1, 1);
        }
        sync_warp();
        if (lane == 0) m.barriers.empty[ring.slot].arrive();
        ring.next();
        if (--left == 0 || step + 1 == steps) fold(segment, total), left = per_segment;
    }
}

/// grid: as many blocks as run at the same time; 384 threads.
DS4_KERNEL(linear_wgmma, 384, 1, ProductParams) {
    if (!kHasWarpgroups) return refuse();
    DS4_DYNAMIC_SHARED(memory);
    GroupMemory &m = aligned_memory<GroupMemory>(memory);
    u32 column_blocks = div_up(p.rows, kColumns), units = p.products[p.count - 1].unit_end * column_blocks;
    if (threadIdx.x == 0) m.barriers.start(2 * 128, kConsumers * 4);
    sync_block();
    Ring ring;
    if (threadIdx.x < 128) {
        fewer_registers<40>();
        // The first time around all stages are free.
        ring.parity = 1;
        for (u32 number = blockIdx.x; number < units; number += gridDim.x) {
            LinearUnit unit = LinearUnit::number(p, number, column_blocks);
            if (unit.product.w.type == Q8_0) bring_codes(m, p, unit, ring);
            else bring_halves(m, p, unit, ring);
        }
        return;
    }
    more_registers<232>();
    u32 warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
    for (u32 number = blockIdx.x; number < units; number += gridDim.x) {
        LinearUnit unit = LinearUnit::number(p, number, column_blocks);
        const Product &product = unit.product;
        float total[2][8][4];
#pragma unroll
        for (int k = 0; k < 64; k++) total[k / 32][k / 4 % 8][k % 4] = -0.0f;
        if (product.w.type == Q8_0) use_codes(m, product.w, warp, lane, ring, total);
        else use_halves_stages(m, product.w, warp, lane, ring, total);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 first = unit.first + half * 64;
            float *y = ptr<float>(product.y) + u64(first) * product.y_stride;
            store_columns<8>(product.w, unit.tile + warp, total[half], int(p.rows) - int(first), y, product.y_stride, product.scale,
                             [](int column) { return column; });
        }
    }
}
