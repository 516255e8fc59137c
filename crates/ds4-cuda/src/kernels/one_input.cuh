// The row of activations that the products of a batch of one row take, in every block's shared memory: copied from where it is, or made
// there from what it comes of, so that no kernel has to do it in between.
#pragma once
#include "hyper.cuh"
#include "product.cuh"

/// What the input comes of.
enum InputKind : u32 {
    /// Its forms are there.
    kGiven = 0,
    /// float32, of which the forms are made.
    kFloats = 1,
    /// float32 that is normalized first: at most 1024 columns.
    kNormed = 2,
    /// The hyper-connection's streams: the sublayer's input, which is also written to `x`.
    kStreamed = 3,
};

struct OneInput {
    Rows x;
    /// Of kStreamed. Its `x` is not used.
    HyperFinishParams hyper;
    /// Of kNormed.
    u64 norm;
    float eps;
    u32 kind;
    /// Which forms the products take.
    u32 integers, halves;
};

constexpr u32 kMostNormed = 1024;
/// Groups of 32 columns of such a row that a warp has: blocks have eight warps or more.
constexpr int kNormedGroups = kMostNormed / 32 / 8;

/// What making the input takes and no kernel writes, so that a thread can have it before its inputs are there.
struct InputWeights {
    /// Of the norm: of the thread's first eight columns (kStreamed), or of its lane's column in each of the warp's groups (kNormed).
    float norm[8];
    /// Of kStreamed: the scale of the streams' weights, and the base of stream number lane % 4's.
    float scale, base;
};
static_assert(kNormedGroups <= 8, "weights of a norm by groups");

/// With all threads of the block.
DS4_DEVICE InputWeights input_weights(const OneInput &p) {
    InputWeights w = {};
    if (p.kind == kStreamed) {
        if (threadIdx.x * 8 < p.hyper.n_embd) load_eight(ptr<const float>(p.hyper.norm), threadIdx.x * 8, p.hyper.n_embd, w.norm);
        w.scale = *ptr<const float>(p.hyper.scale), w.base = ptr<const float>(p.hyper.base)[threadIdx.x % kStreams];
    } else if (p.kind == kNormed) {
#pragma unroll
        for (int k = 0; k < kNormedGroups; k++) {
            u32 i = threadIdx.x + k * blockDim.x;
            if (i < p.x.cols) w.norm[k] = ptr<const float>(p.norm)[i];
        }
    }
    return w;
}

/// A staged row: int8 codes, scales of groups, sums of 16s, then, if products take them, both float16 parts.
struct Staged {
    u8 *memory;
    /// Columns, with those behind the last.
    u32 padded;

    DS4_MEMBER const u8 *codes() const { return memory; }
    DS4_MEMBER const float *scales() const { return reinterpret_cast<const float *>(memory + padded); }
    DS4_MEMBER const u16 *halves() const { return reinterpret_cast<const u16 *>(memory + padded + padded / 8 + padded / 4); }
    /// As rows for those who write it.
    DS4_MEMBER Rows rows(Rows x) const {
        x.q = reinterpret_cast<u64>(memory);
        x.d = x.q + padded;
        x.s = x.d + padded / 8;
        x.hi = x.s + padded / 4;
        x.lo = x.hi + padded * 2;
        x.turned = 0;
        return x;
    }
};

/// Copies parts of a row, `bytes` of each: all loads of a thread before its stores.
template <int PARTS>
DS4_DEVICE void copy_parts(const u64 (&to)[PARTS], const u64 (&from)[PARTS], const u32 (&bytes)[PARTS]) {
    u32 step = blockDim.x * 16;
    for (u32 at = threadIdx.x * 16, most = bytes[0]; at < most; at += step) {
        uint4 v[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            if (at < bytes[i]) v[i] = load<uint4>(ptr<const u8>(from[i] + at));
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            if (at < bytes[i]) *ptr<uint4>(to[i] + at) = v[i];
    }
}

/// RMSNorm with a weight; sums in the order of `norm_quantize`. A group of 32 columns is a warp's at a time.
DS4_DEVICE void stage_normed(const OneInput &p, const Rows &to, const InputWeights &weights, float *scratch) {
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const float *x = ptr<const float>(p.x.f);
    float v[kNormedGroups] = {};
#pragma unroll
    for (int k = 0; k < kNormedGroups; k++) {
        u32 i = (warp + k * warps) * 32 + lane;
        if (i < p.x.cols) v[k] = x[i];
    }
#pragma unroll
    for (int k = 0; k < kNormedGroups; k++) {
        u32 group = warp + k * warps;
        if (group >= kMostNormed / 32) break;
        float sum = warp_sum(fmaf(v[k], v[k], 0.0f));
        if (lane == 0) scratch[group] = sum;
    }
    sync_block();
    float sum = scratch[0];
#pragma unroll
    for (u32 i = 1; i < kMostNormed / 32; i++) sum += scratch[i];
    float scale = 1.0f / sqrtf(sum / float(p.x.cols) + p.eps);
#pragma unroll
    for (int k = 0; k < kNormedGroups; k++) {
        u32 group = warp + k * warps;
        if (group < p.x.blocks * 8) emit_forms(to, 0, group * 32 + lane, v[k] * scale * weights.norm[k], p.integers, p.halves);
    }
}

/// Eight neighbouring floats, aligned.
DS4_DEVICE void load_aligned(const float *from, float (&v)[8]) {
    float4 a = load<float4>(from), b = load<float4>(from + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/// The sublayer's input as `hc_finish` makes it, in a launch whose blocks all have a part in it. Threads have eight columns; a row has a multiple of 64.
DS4_DEVICE void stage_streamed(const OneInput &p, const Rows &to, const InputWeights &constant, float (&part)[kParts * kSums],
                               float (&mix)[kSums]) {
    __shared__ float weights[kStreams + 1];
    const HyperFinishParams &h = p.hyper;
    u32 t = threadIdx.x, from = h.row_list == 0 ? 0 : *ptr<const u32>(h.row_list), columns = p.x.blocks * 256;
    const float *streams = ptr<const float>(h.streams) + u64(from) * kStreams * h.n_embd;
    float stream[kStreams][8] = {};
    auto fetch = [&](u32 i) {
        if (i >= h.n_embd) return;
#pragma unroll
        for (int k = 0; k < kStreams; k++) load_aligned(streams + k * h.n_embd + i, stream[k]);
    };
    fetch(t * 8);
    add_parts(ptr<const float>(h.sums), h.slices, part);
    mark(2);
    // One warp: every instruction of all of them would take the time of four.
    if (t < 32) {
        add_mix(part, mix, t);
        if (t < kSums - 32) add_mix(part, mix, t + 32);
        sync_warp();
        // A lane has a stream.
        float own = give_weight(h, mix, mix_factor(h, mix), t % kStreams, constant.scale, constant.base), give[kStreams];
#pragma unroll
        for (int k = 0; k < kStreams; k++) give[k] = shuffle(own, k);
        float norm = mixed_norm(h, mix, give);
        if (t == 0) {
#pragma unroll
            for (int k = 0; k < kStreams; k++) weights[k] = give[k];
            weights[kStreams] = norm;
        }
    }
    sync_block();
    mark(3);
    float give[kStreams], norm = weights[kStreams];
#pragma unroll
    for (int k = 0; k < kStreams; k++) give[k] = weights[k];
    // Whole warps: a row has blocks of 256 columns.
#pragma unroll 1
    for (u32 i = t * 8; i < columns; i += blockDim.x * 8) {
        if (i != t * 8) fetch(i);
        float v[8] = {}, weight[8];
        if (i < h.n_embd) {
            if (i != t * 8) load_eight(ptr<const float>(h.norm), i, h.n_embd, weight);
            else
#pragma unroll
                for (int c = 0; c < 8; c++) weight[c] = constant.norm[c];
#pragma unroll
            for (int c = 0; c < 8; c++) {
                float mixed = 0.0f;
#pragma unroll
                for (int k = 0; k < kStreams; k++) mixed = fmaf(give[k], stream[k][c], mixed);
                v[c] = mixed * norm * weight[c];
            }
        }
        emit_eight(to, i, v, p.integers, p.halves);
        // Others take the row from device memory: every block writes some of it.
        for (u32 block = blockIdx.x; block < p.x.blocks; block += gridDim.x) {
            if (i / 256 != block) continue;
            float *f = ptr<float>(p.x.f) + i;
#pragma unroll
            for (int c = 0; c < 8; c++)
                if (i < h.n_embd) f[c] = v[c];
            emit_eight(p.x, i, v, h.integers, h.halves);
        }
    }
    // Not wanted before the sublayer's output: the last block has the least to do.
    if (h.head != 0 || blockIdx.x != gridDim.x - 1) return;
    float factor = mix_factor(h, mix);
    if (t < kStreams) ptr<float>(h.post)[t] = merge_weight(h, mix, factor, t);
    if (t == 32) merge_matrix(h, mix, factor, 0);
}

/// Row `row` of an input that is there, into shared memory. The block meets before and after.
DS4_DEVICE void stage_row(const OneInput &p, u32 row, u8 *memory) {
    u32 padded = p.x.blocks * 256;
    Rows to = Staged{memory, padded}.rows(p.x);
    u64 at = u64(row) * padded;
    if (p.kind == kFloats) {
        for (u32 i = threadIdx.x * 8; i < padded; i += blockDim.x * 8) {
            float v[8];
            load_eight(ptr<const float>(p.x.f) + u64(row) * p.x.stride, i, p.x.cols, v);
            emit_eight(to, i, v, p.integers, p.halves);
        }
    } else if (p.halves) {
        // The longest part first.
        u32 some = p.integers ? padded : 0;
        copy_parts<4>({to.hi, to.lo, to.q, to.d}, {p.x.hi + at * 2, p.x.lo + at * 2, p.x.q + at, p.x.d + at / 8},
                      {padded * 2, padded * 2, some, some / 8});
    } else {
        copy_parts<2>({to.q, to.d}, {p.x.q + at, p.x.d + at / 8}, {padded, padded / 8});
    }
}

/// Whether the input is one row that is made of something else.
DS4_DEVICE bool is_made(const OneInput &p) { return p.kind == kNormed || p.kind == kStreamed; }

/// That row, in shared memory. The block meets before and after.
DS4_DEVICE void stage_made(const OneInput &p, const InputWeights &weights, u8 *memory, float *scratch, float (&part)[kParts * kSums],
                           float (&mix)[kSums]) {
    Rows to = Staged{memory, p.x.blocks * 256}.rows(p.x);
    if (p.kind == kNormed) stage_normed(p, to, weights, scratch);
    else stage_streamed(p, to, weights, part, mix);
}
