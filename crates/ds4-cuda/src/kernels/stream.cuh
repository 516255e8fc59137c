// Weights on their way: every warp of a small-batch kernel has a ring of stages in shared memory, which it fills with the blocks
// it will need next while it computes on those that are there. Filling starts before the kernel's inputs exist.
//
// A warp's work is a list of steps in a fixed order. `Ring` fills stages in that order; the caller says how.
#pragma once
#include "product.cuh"

/// Copies `BYTES`, a multiple of 16, with all lanes of the warp.
template <u32 BYTES>
DS4_DEVICE void copy_warp(u8 *to, const u8 *from) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 at = 0; at + 512 <= BYTES; at += 512) copy_stream(to + at + lane * 16, from + at + lane * 16);
    constexpr u32 kRest = BYTES % 512, kWhole = BYTES - kRest;
    if constexpr (kRest != 0)
        if (lane * 16 < kRest) copy_stream(to + kWhole + lane * 16, from + kWhole + lane * 16);
}

/// Bytes of one block of a block-quantized matrix: codes, scales, extra.
template <u32 TYPE>
constexpr u32 kBlockBytes = u32(Layout<TYPE>::codes) + u32(Layout<TYPE>::scales) + u32(Layout<TYPE>::extra);

template <u32 TYPE>
DS4_DEVICE void stage_weights(u8 *to, const Weight &w, u64 at) {
    constexpr u32 kCodes = Layout<TYPE>::codes, kScales = Layout<TYPE>::scales, kExtra = Layout<TYPE>::extra;
    copy_warp<kCodes>(to, block_codes<TYPE>(w, at));
    copy_warp<kScales>(to + kCodes, block_scales<TYPE>(w, at));
    if constexpr (kExtra != 0) copy_warp<kExtra>(to + kCodes + kScales, block_extra<TYPE>(w, at));
}

template <u32 TYPE>
DS4_DEVICE void take_staged(BlockOf<TYPE> &block, const u8 *stage) {
    constexpr u32 kCodes = Layout<TYPE>::codes, kScales = Layout<TYPE>::scales;
    block.template take<FromShared>(stage, stage + kCodes, stage + kCodes + kScales, int(threadIdx.x % 32));
}

/// An octet of columns of one block of int8 activations, loaded: all matrices that the block meets share it. With `ONE` only the first
/// column is wanted.
template <bool ONE>
struct OctetColumns {
    uint2 code[8];
    float even[8], odd[ONE ? 1 : 8];
    const u32 *sum;

    DS4_MEMBER void load_from(const Rows &x, const LaneColumns<1> &columns, u32 block) {
        u32 t = threadIdx.x % 4;
        const i8 *q = ptr<const i8>(x.q) + (u64(columns.g[0]) * x.blocks + block) * 256 + t * 8;
#pragma unroll
        for (int i = 0; i < 8; i++) code[i] = load<uint2>(q + i * 32);
        scales_of(even, ptr<const float>(x.d) + (u64(columns.even[0]) * x.blocks + block) * 8);
        if constexpr (!ONE) scales_of(odd, ptr<const float>(x.d) + (u64(columns.odd[0]) * x.blocks + block) * 8);
        sum = ptr<const u32>(x.s) + (u64(columns.g[0]) * x.blocks + block) * 16 + t * 4;
    }
    DS4_MEMBER void scales_of(float (&to)[8], const float *d) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float4 v = load<float4>(d + i * 4);
            to[i * 4] = v.x, to[i * 4 + 1] = v.y, to[i * 4 + 2] = v.z, to[i * 4 + 3] = v.w;
        }
    }
    DS4_MEMBER uint2 codes(int, int i) const { return code[i]; }
    DS4_MEMBER float2 scale(int, int i) const { return {even[i], odd[ONE ? 0 : i]}; }
    DS4_MEMBER uint4 sums(int) const { return load<uint4>(sum); }
};

/// A warp's ring of `STAGES` stages. `fill(stage)` starts the copies of the next step, or does nothing if there is none.
template <int STAGES, u32 BYTES>
struct Ring {
    u8 *memory;
    u32 at;

    template <class Fill>
    DS4_MEMBER void start(u8 *own, Fill &&fill) {
        memory = own, at = 0;
#pragma unroll 1
        for (int s = 0; s < STAGES; s++) {
            fill(memory + s * BYTES);
            commit_copies();
        }
    }
    /// The stage of the next step, complete.
    DS4_MEMBER const u8 *take() {
        wait_copies<STAGES - 1>();
        sync_warp();
        return memory + at * BYTES;
    }
    /// Gives the stage back to be filled.
    template <class Fill>
    DS4_MEMBER void give(Fill &&fill) {
        sync_warp();
        fill(memory + at * BYTES);
        commit_copies();
        at = at + 1 == STAGES ? 0 : at + 1;
    }
};
