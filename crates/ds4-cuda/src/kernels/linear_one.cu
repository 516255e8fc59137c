// Matrix products of a batch of one row, with weights on their way before the row is there. Sums as in `linear.cu`, in the same order.
//
// A unit is 32 rows of a matrix, or of the two matrices of a gated pair. A block computes units one after the other; its warps share the
// unit's tiles and segments. Several matrices that take the same input are one launch.
#include "forms.cuh"
#include "stream.cuh"

/// What becomes of a product.
enum Outcome : u32 {
    /// float32 in `y`.
    kPlain = 0,
    /// A row of `out`, in the forms that the next product takes.
    kForms = 1,
    /// The gate of a gated pair, whose other half is the next product: SwiGLU of both, as a row of `out`.
    kGated = 2,
};

/// One stage: a block of Q8_0, or half a block of float16.
constexpr u32 kStage = kBlockBytes<Q8_0>;
constexpr u32 kHalfStep = 4096;

/// A warp's position among its steps, in units of this block.
struct Cursor {
    u32 unit, index, item;
    /// Steps of the item that are left.
    u32 left;
    bool integers;
    const u8 *codes, *scales;
};

/// Items of a unit: its tiles, of both matrices of a pair, times segments.
DS4_DEVICE u32 items_of(const SmallProduct &p) { return (p.outcome == kGated ? 4 : 2) * p.segments; }

struct ItemPlace {
    u32 tile, first, last;
    bool exists, second;
};

DS4_DEVICE ItemPlace place_of(const SmallProductParams &p, u32 index, u32 unit, u32 item) {
    const SmallProduct &product = p.products[index];
    u32 per = product.segment_blocks, count = product.segments;
    u32 slot = item / count, segment = item - slot * count;
    const Weight &w = product.w;
    u32 tile = (unit - product.unit_begin) * 2 + slot % 2;
    return {tile, segment * per, min_u(segment * per + per, w.blocks), tile * 16 < w.rows, slot >= 2};
}

/// Moves to the next item that exists.
DS4_DEVICE void seek(const SmallProductParams &p, Cursor &c) {
    for (; c.unit < p.units; c.unit += gridDim.x, c.item = threadIdx.x / 32) {
        while (c.unit >= p.products[c.index].unit_end) c.index++;
        const SmallProduct &product = p.products[c.index];
        for (; c.item < items_of(product); c.item += blockDim.x / 32) {
            ItemPlace at = place_of(p, c.index, c.unit, c.item);
            if (!at.exists) continue;
            const Weight &w = at.second ? p.products[c.index + 1].w : product.w;
            u64 block = u64(at.tile) * w.blocks + at.first;
            c.integers = w.type == Q8_0;
            c.codes = ptr<const u8>(w.codes) + block * (c.integers ? Layout<Q8_0>::codes : Layout<F16>::codes);
            c.scales = ptr<const u8>(w.scales) + block * Layout<Q8_0>::scales;
            c.left = (at.last - at.first) * (c.integers ? 1 : 2);
            return;
        }
    }
}

DS4_DEVICE void fill_stage(const SmallProductParams &p, Cursor &c, u8 *to) {
    if (c.unit >= p.units) return;
    copy_warp<kHalfStep>(to, c.codes);
    c.codes += kHalfStep;
    if (c.integers) copy_warp<Layout<Q8_0>::scales>(to + kHalfStep, c.scales), c.scales += Layout<Q8_0>::scales;
    if (--c.left > 0) return;
    c.item += blockDim.x / 32;
    seek(p, c);
}

/// grid: blocks that share the units of all products; 256 threads, or fewer where shared memory is short. For Q8_0 and F16.
DS4_KERNEL_EARLY(linear_one, 256, 2, SmallProductParams) {
    constexpr int kStages = 3;
    /// Sums of a segment of a tile.
    constexpr u32 kSlot = 16;
    DS4_DYNAMIC_SHARED(memory);
    u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    Cursor ahead = {blockIdx.x, 0, warp, 0, false, nullptr, nullptr};
    seek(p, ahead);
    auto fill = [&](u8 *to) { fill_stage(p, ahead, to); };
    Ring<kStages, kStage> ring;
    ring.start(memory + warp * (kStages * kStage), fill);
    float *part = reinterpret_cast<float *>(memory + warps * kStages * kStage);
    wait_for_inputs();

    for (u32 unit = blockIdx.x, index = 0; unit < p.units; unit += gridDim.x) {
        while (unit >= p.products[index].unit_end) index++;
        const SmallProduct &product = p.products[index];
        u32 group = product.group_rows == 0 ? 0 : (unit - product.unit_begin) * 32 / product.group_rows;
        LaneColumns<1> columns = {{group}, {group}, {group}};
        for (u32 item = warp; item < items_of(product); item += warps) {
            ItemPlace at = place_of(p, index, unit, item);
            if (!at.exists) continue;
            float acc[1][4] = {};
            bool integers = product.w.type == Q8_0;
            // A step is a block, or half of one.
            u32 shift = integers ? 0 : 1;
#pragma unroll 1
            for (u32 step = at.first << shift; step < at.last << shift; step++) {
                const u8 *stage = ring.take();
                if (integers) {
                    OctetColumns<true> source;
                    source.load_from(p.x, columns, step);
                    BlockOf<Q8_0> block;
                    take_staged(block, stage);
                    accumulate_block<Q8_0, 1, true>(block, nullptr, source, acc);
                } else {
                    GlobalColumns<1> source = {p.x, columns, step / 2, t};
                    HalfBlock block;
                    block.take_staged(stage, int(lane));
                    accumulate_half<1>(block, int(step % 2), source, acc);
                }
                ring.give(fill);
            }
            if (t == 0) part[item * kSlot + g] = acc[0][0], part[item * kSlot + g + 8] = acc[0][2];
        }
        sync_block();
        if (warp == 0) {
            u32 out = (unit - product.unit_begin) * 32 + lane, count = product.segments;
            auto sum_of = [&](u32 slot) {
                const float *from = part + slot * count * kSlot + lane % 16;
                float sum = from[0];
                for (u32 s = 1; s < count; s++) sum += from[s * kSlot];
                return sum;
            };
            bool inside = out < product.w.rows;
            float v = inside ? sum_of(lane / 16) : 0.0f;
            if (product.outcome == kPlain) {
                if (inside) ptr<float>(product.y)[out] = v * product.scale;
            } else {
                if (product.outcome == kGated) v = inside ? swiglu(v, sum_of(2 + lane / 16), p.limit) : 0.0f;
                emit_forms(p.out, p.out_row, out, v, true, p.halves);
            }
        }
        sync_block();
    }
}
