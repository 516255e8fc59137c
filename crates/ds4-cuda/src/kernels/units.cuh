// What the kernels share that stay on their multiprocessor and take their weights through rings: a launch's units, and a warp's way through
// them.
//
// A unit is some tiles of a matrix, or of the two matrices of a gated pair. A block computes units one after the other; its warps share
// the unit's tiles and segments. Several matrices that take the same input are one launch.
#pragma once
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

/// A product with one row.
struct SmallProduct {
    Weight w;
    u64 y;
    /// The product's units in the launch's numbering.
    u32 unit_begin, unit_end;
    /// Row of x for rows of W from group * group_rows on: group.
    u32 group_rows;
    float scale;
    /// An `Outcome`.
    u32 outcome;
    /// How the columns are cut, as `segments_of` has it.
    u32 segments, segment_blocks;
    /// Tiles of a unit, of each matrix: an even number.
    u32 tiles;
};

/// One stage: half a block of Q8_0 with the scales, or a quarter of one of float16.
constexpr u32 kStepCodes = 2048, kStepScales = 128, kStepBytes = kStepCodes + kStepScales;

DS4_DEVICE u32 items_of(const SmallProduct &p) { return (p.outcome == kGated ? 2 : 1) * p.tiles * p.segments; }

struct ItemPlace {
    u32 tile, first, last;
    bool exists, second;
};

DS4_DEVICE ItemPlace place_of(const SmallProduct &product, u32 unit, u32 item) {
    u32 per = product.segment_blocks, slot = item / product.segments, segment = item - slot * product.segments;
    bool second = slot >= product.tiles;
    u32 tile = (unit - product.unit_begin) * product.tiles + slot - (second ? product.tiles : 0);
    return {tile, segment * per, min_u(segment * per + per, product.w.blocks), tile * 16 < product.w.rows, second};
}

/// A warp's position among its steps.
struct Cursor {
    u32 unit, index, item;
    /// How often the unit was gone through.
    u32 pass;
    /// Steps of the item that are left.
    u32 left;
    bool integers;
    const u8 *codes, *scales;
};

/// A block's units: all from `first` on, `step` apart, before `end`, each `passes` times.
struct Share {
    u32 first, end, step, passes;
};

/// Of block `number` of `blocks`: neighbours where the input depends on the unit, so that a block meets few of them; else those that are a
/// grid apart, so that every block has some of each matrix.
DS4_DEVICE Share share_of(const SmallProduct &product, u32 units, u32 number, u32 blocks, u32 passes) {
    if (product.group_rows == 0) return {number, units, blocks, passes};
    return {number * units / blocks, (number + 1) * units / blocks, 1, passes};
}

/// Moves to the next item that exists.
DS4_DEVICE void seek(const SmallProduct *products, Cursor &c, const Share &mine) {
    while (c.unit < mine.end) {
        while (c.unit >= products[c.index].unit_end) c.index++;
        const SmallProduct &product = products[c.index];
        for (; c.item < items_of(product); c.item += blockDim.x / 32) {
            ItemPlace at = place_of(product, c.unit, c.item);
            if (!at.exists) continue;
            const Weight &w = at.second ? products[c.index + 1].w : product.w;
            u64 block = u64(at.tile) * w.blocks + at.first;
            c.integers = w.type == Q8_0;
            c.codes = ptr<const u8>(w.codes) + block * (c.integers ? Layout<Q8_0>::codes : Layout<F16>::codes);
            c.scales = ptr<const u8>(w.scales) + block * Layout<Q8_0>::scales;
            c.left = (at.last - at.first) * (c.integers ? 2 : 4);
            return;
        }
        c.item = threadIdx.x / 32;
        if (++c.pass == mine.passes) c.pass = 0, c.unit += mine.step;
    }
}

/// The cursor at a warp's first step.
DS4_DEVICE Cursor cursor_at(const SmallProduct *products, const Share &mine) {
    Cursor c = {mine.first, 0, threadIdx.x / 32, 0, 0, false, nullptr, nullptr};
    seek(products, c, mine);
    return c;
}

/// Starts the copies of the next step, if there is one.
DS4_DEVICE void fill_stage(const SmallProduct *products, Cursor &c, u8 *to, const Share &mine) {
    if (c.unit >= mine.end) return;
    copy_warp<kStepCodes>(to, c.codes);
    c.codes += kStepCodes;
    u32 lane = threadIdx.x % 32;
    if (c.integers) {
        // A row has the scales of both halves side by side.
        if (lane < 16) copy_async<8>(to + kStepCodes + lane * 8, c.scales + lane * 16);
        c.scales += c.left % 2 == 0 ? 8 : Layout<Q8_0>::scales - 8;
    }
    if (--c.left > 0) return;
    c.item += blockDim.x / 32;
    seek(products, c, mine);
}
