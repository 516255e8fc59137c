// What every kernel file shares: integer names, warp and matrix primitives, float16, the parameter structs' parts.
//
// The kernels compile as CUDA C++ and, for tests without a GPU, as plain C++ against a header that plays the device
// (DS4_EMULATION). They are compiled without contraction of a*b+c: where an fma is meant it is written, so that a formula
// gives the same bits in whichever kernel it is inlined.
#pragma once

#ifdef DS4_EMULATION
#include "cuda_emulation.h"
#define DS4_KERNEL_EARLY DS4_KERNEL
#define DS4_KERNEL_LATE DS4_KERNEL
#else
// A kernel may start before the one ahead of it has ended, and lets the next one start in turn; what the one ahead writes is there
// after `wait_for_inputs`, which comes first unless a kernel has something to do before (`DS4_KERNEL_EARLY`). `DS4_KERNEL_LATE`: both are
// the kernel's own affair.
#ifdef DS4_TIMELINE
#define DS4_TIMELINE_PARAM , unsigned long long timeline
#define DS4_TIMELINE_BEGIN timeline_begin(timeline);
#define DS4_TIMELINE_END timeline_end();
#else
#define DS4_TIMELINE_PARAM
#define DS4_TIMELINE_BEGIN
#define DS4_TIMELINE_END
#endif
#define DS4_KERNEL_WITH(name, threads, blocks, Params, begin)                                                                    \
    static __device__ __forceinline__ void name##_body(const Params &p);                                                         \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p DS4_TIMELINE_PARAM) {    \
        DS4_TIMELINE_BEGIN                                                                                                       \
        begin;                                                                                                                   \
        name##_body(p);                                                                                                          \
        DS4_TIMELINE_END                                                                                                         \
    }                                                                                                                            \
    static __device__ __forceinline__ void name##_body(const Params &p)
#define DS4_KERNEL(name, threads, blocks, Params) DS4_KERNEL_WITH(name, threads, blocks, Params, (let_next_start(), wait_for_inputs()))
#define DS4_KERNEL_EARLY(name, threads, blocks, Params) DS4_KERNEL_WITH(name, threads, blocks, Params, let_next_start())
#define DS4_KERNEL_LATE(name, threads, blocks, Params) DS4_KERNEL_WITH(name, threads, blocks, Params, (void)0)
#define DS4_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if !defined(DS4_EMULATION) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define DS4_HOPPER 1
#endif

#define DS4_DEVICE static __device__ __forceinline__
#define DS4_MEMBER __device__ __forceinline__
/// A function with registers of its own: for what few blocks do.
#define DS4_APART static __device__ __noinline__



// --- storage types of weights -----------------------------------------------------------------------------

/// As the host numbers them (`weights.rs`).
enum Type : u32 { F32 = 0, F16 = 1, BF16 = 2, Q8_0 = 3, Q2_K = 4, Q4_K = 5, IQ2_XXS = 6, MXFP4 = 7 };

/// A matrix, or a stack of them, as `repack.cu` lays it out. Rows come in tiles of 16, columns in blocks of 256.
struct Weight {
    u64 codes;
    u64 scales;
    u64 extra;
    /// Bytes from one matrix of a stack to the next.
    u64 slab_codes, slab_scales, slab_extra;
    u32 type, rows, cols, blocks;
};

/// Rows of activations, in the forms that products need.
struct Rows {
    /// float32, [rows][stride].
    u64 f;
    /// int8 codes, [rows][blocks * 256], zero behind the last column.
    u64 q;
    /// Scale of each 32 codes, [rows][blocks * 8].
    u64 d;
    /// Scale times sum of each 16 codes, as a float16 and what that leaves, [rows][blocks * 16].
    u64 s;
    /// float16 and what it leaves of the value, [rows][blocks * 256] each.
    u64 hi, lo;
    /// The int8 codes in the order that warpgroup instructions want (`turned_place`), or none.
    u64 turned;
    u32 cols, stride, blocks, pad;
};

/// One run of consecutive tokens of one sequence in the batch.
struct Span {
    u64 ring, frontier, pages;
    u32 first_row, len, first_position, pad;
};

/// One row of the batch.
struct RowInfo {
    u32 token, position, span, pad;
};

/// How rows of the KV cache lie in device memory (`cache_layout.rs`).
struct CacheFormat {
    u32 exact;
    u32 dim, rope, nope;
    /// Bytes from one KV row to the next, and from one indexer row to the next.
    u32 kv_stride, index_stride;
    u32 index_dim, window;
};

/// Where one layer's part of a sequence's state is.
struct LayerPlace {
    /// Byte offsets in the ring memory and in a page.
    u64 ring, page_kv, page_index;
    /// Float offsets among the frontiers.
    u32 frontier, index_frontier;
    u32 ratio, rows_per_page;
};

#if defined(DS4_TIMELINE) && !defined(DS4_EMULATION)
// A build that notes when blocks came where (feature `timeline`): per block of a recorded launch eight readings of the card's clock, of
// which the first is the block's start, the second the end of its waiting, and the last its end.
constexpr u32 kMarks = 8, kMarkedBlocks = 256;

DS4_DEVICE u64 *&timeline_place() {
    __shared__ u64 *place;
    return place;
}

/// Notes that the block's first thread has come here.
DS4_DEVICE void mark(u32 what) {
    if (threadIdx.x != 0 || timeline_place() == nullptr) return;
    u64 now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
    timeline_place()[what] = now;
}

DS4_DEVICE void timeline_begin(u64 timeline) {
    u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    if (threadIdx.x != 0) return;
    timeline_place() = timeline != 0 && block < kMarkedBlocks ? reinterpret_cast<u64 *>(timeline) + block * kMarks : nullptr;
    mark(0);
}

DS4_DEVICE void timeline_end() {
    __syncthreads();
    mark(kMarks - 1);
}
#else
DS4_DEVICE void mark(u32) {}
#endif

/// Lets the next kernel start as soon as there is room for it.
DS4_DEVICE void let_next_start() {
#ifdef DS4_HOPPER
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Waits for the kernels ahead.
DS4_DEVICE void wait_for_inputs() {
#ifdef DS4_HOPPER
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    mark(1);
}

/// Starts bringing `bytes` (a multiple of 16) at `p` (a multiple of 16) into the L2 cache.
DS4_DEVICE void prefetch_l2(const void *p, u32 bytes) {
#ifdef DS4_HOPPER
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#else
    (void)p, (void)bytes;
#endif
}

template <class T>
DS4_DEVICE T *ptr(u64 address) {
    return reinterpret_cast<T *>(address);
}

DS4_DEVICE u32 min_u(u32 a, u32 b) { return a < b ? a : b; }
DS4_DEVICE u32 max_u(u32 a, u32 b) { return a > b ? a : b; }
DS4_DEVICE u32 div_up(u32 a, u32 b) { return (a + b - 1) / b; }

// --- bits -------------------------------------------------------------------------------------------------

DS4_DEVICE float as_float(u32 bits) {
#ifdef DS4_EMULATION
    float f;
    memcpy(&f, &bits, 4);
    return f;
#else
    return __uint_as_float(bits);
#endif
}

DS4_DEVICE float infinity() { return as_float(0x7F800000u); }

DS4_DEVICE u32 as_bits(float f) {
#ifdef DS4_EMULATION
    u32 bits;
    memcpy(&bits, &f, 4);
    return bits;
#else
    return __float_as_uint(f);
#endif
}

/// Bytes of `a` (0 to 3) and `b` (4 to 7) by the selector's lower four nibbles, whose fourth bit must be 0.
DS4_DEVICE u32 byte_perm(u32 a, u32 b, u32 selector) {
#ifdef DS4_EMULATION
    u64 both = (u64(b) << 32) | a;
    u32 out = 0;
    for (int i = 0; i < 4; i++) {
        u32 byte = u32(both >> (8 * ((selector >> (4 * i)) & 7)) & 0xFF);
        if (selector >> (4 * i) & 8) byte = byte & 0x80 ? 0xFF : 0;
        out |= byte << (8 * i);
    }
    return out;
#else
    // Not the function of this name, which masks the selector.
    u32 out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
    return out;
#endif
}

/// c plus the sum of the products of the bytes of a and b, all unsigned. A byte of a, times a power of two, plus an offset is one
/// instruction, and another unit's work than shifts and masks are.
DS4_DEVICE u32 dot_bytes(u32 a, u32 b, u32 c) {
#ifdef DS4_EMULATION
    for (int i = 0; i < 4; i++) c += (a >> (8 * i) & 0xFF) * (b >> (8 * i) & 0xFF);
    return c;
#else
    u32 out;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
#endif
}

/// The upper 16 bits, by the unit that multiplies.
DS4_DEVICE u32 high_half(u32 x) {
#ifdef DS4_EMULATION
    return x >> 16;
#else
    u32 out;
    asm("dp2a.lo.u32.u32 %0, %1, %2, %3;" : "=r"(out) : "r"(x), "r"(0x100), "r"(0));
    return out;
#endif
}

DS4_DEVICE float half_to_float(u16 bits) {
#ifdef DS4_EMULATION
    _Float16 h;
    memcpy(&h, &bits, 2);
    return float(h);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
    return f;
#endif
}

/// To nearest, ties to even.
DS4_DEVICE u16 float_to_half(float f) {
#ifdef DS4_EMULATION
    _Float16 h = _Float16(f);
    u16 bits;
    memcpy(&bits, &h, 2);
    return bits;
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    return bits;
#endif
}

DS4_DEVICE u32 pack_halves(float low, float high) { return float_to_half(low) | u32(float_to_half(high)) << 16; }

/// Both halves of `a` times both halves of `b`.
DS4_DEVICE u32 mul_halves(u32 a, u32 b) {
#ifdef DS4_EMULATION
    return pack_halves(half_to_float(u16(a)) * half_to_float(u16(b)),
                       half_to_float(u16(a >> 16)) * half_to_float(u16(b >> 16)));
#else
    u32 out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
#endif
}

/// Sums of both halves.
DS4_DEVICE u32 add_halves(u32 a, u32 b) {
#ifdef DS4_EMULATION
    return pack_halves(half_to_float(u16(a)) + half_to_float(u16(b)),
                       half_to_float(u16(a >> 16)) + half_to_float(u16(b >> 16)));
#else
    u32 out;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
#endif
}

/// Four int8 as float16: elements 0 and 1, 2 and 3.
DS4_DEVICE void bytes_to_halves(u32 bytes, u32 &low, u32 &high) {
    // Under the exponent of 1024 a byte is itself, plus 1024; of the sum with 128 too much, 1152 are taken away.
    bytes ^= 0x80808080u;
    low = add_halves(byte_perm(bytes, 0x64646464u, 0x4140), 0xE480E480u);
    high = add_halves(byte_perm(bytes, 0x64646464u, 0x4342), 0xE480E480u);
}

DS4_DEVICE float round_even(float x) {
#ifdef DS4_EMULATION
    return nearbyintf(x);
#else
    return rintf(x);
#endif
}

// --- memory -----------------------------------------------------------------------------------------------

/// 16 bytes of weights, which nobody reads again soon.
DS4_DEVICE uint4 load_stream(const void *p) {
#ifdef DS4_EMULATION
    return *static_cast<const uint4 *>(p);
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}

/// Copies 8 or 16 bytes into shared memory, which are there after `copies_done` and a barrier.
template <int BYTES>
DS4_DEVICE void copy_async(void *to, const void *from) {
#ifdef DS4_EMULATION
    memcpy(to, from, BYTES);
#else
    u32 address = u32(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(BYTES) : "memory");
#endif
}

/// Copies 16 bytes that nobody reads again soon into shared memory.
DS4_DEVICE void copy_stream(void *to, const void *from) {
#ifdef DS4_EMULATION
    memcpy(to, from, 16);
#else
    u32 address = u32(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
#endif
}

DS4_DEVICE void copies_done() {
#ifndef DS4_EMULATION
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// Ends a group of copies, which may be empty.
DS4_DEVICE void commit_copies() {
#ifndef DS4_EMULATION
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most the last LEFT groups of this thread's copies are on their way.
template <int LEFT>
DS4_DEVICE void wait_copies() {
#ifndef DS4_EMULATION
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

/// A word that another kernel has written since this one started.
DS4_DEVICE u32 load_fresh(const u32 *p) { return *static_cast<const volatile u32 *>(p); }

/// The word `OFFSET` + `at` bytes behind `base` in shared memory, which does not change any more.
template <u32 OFFSET>
DS4_DEVICE u32 load_table(const u32 *base, u32 at) {
#ifdef DS4_EMULATION
    return *reinterpret_cast<const u32 *>(reinterpret_cast<const u8 *>(base) + OFFSET + at);
#else
    u32 v;
    asm("ld.shared.u32 %0, [%1 + %2];" : "=r"(v) : "r"(u32(__cvta_generic_to_shared(base)) + at), "n"(OFFSET));
    return v;
#endif
}

template <class T>
DS4_DEVICE T load(const void *p) {
    return *static_cast<const T *>(p);
}

DS4_DEVICE u16 load_u16_unaligned2(const u8 *p) { return u16(p[0] | p[1] << 8); }

// --- threads ----------------------------------------------------------------------------------------------

DS4_DEVICE void sync_block() {
#ifdef DS4_EMULATION
    emulation::block_barrier();
#else
    __syncthreads();
#endif
}

DS4_DEVICE void sync_warp() {
#ifdef DS4_EMULATION
    emulation::warp_barrier();
#else
    __syncwarp();
#endif
}

template <class T>
DS4_DEVICE T shuffle(T value, int lane) {
#ifdef DS4_EMULATION
    const unsigned char *all = emulation::warp_exchange(&value, sizeof(T));
    T out;
    memcpy(&out, all + (lane & 31) * emulation::kExchangeStride, sizeof(T));
    return out;
#else
    return __shfl_sync(0xFFFFFFFFu, value, lane);
#endif
}

template <class T>
DS4_DEVICE T shuffle_xor(T value, int mask) {
#ifdef DS4_EMULATION
    return shuffle(value, emulation::current->lane ^ mask);
#else
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
#endif
}

/// Bit l: whether lane l says so.
DS4_DEVICE u32 warp_votes(bool vote) {
#ifdef DS4_EMULATION
    const unsigned char *all = emulation::warp_exchange(&vote, sizeof(vote));
    u32 out = 0;
    for (int l = 0; l < 32; l++) out |= u32(all[l * emulation::kExchangeStride] != 0) << l;
    return out;
#else
    return __ballot_sync(0xFFFFFFFFu, vote);
#endif
}

/// The warp's largest number.
DS4_DEVICE u32 warp_most(u32 x) {
#ifdef DS4_EMULATION
    for (int mask = 16; mask > 0; mask /= 2) x = max_u(x, shuffle_xor(x, mask));
    return x;
#else
    return __reduce_max_sync(0xFFFFFFFFu, x);
#endif
}

/// The warp's smallest number.
DS4_DEVICE u32 warp_least(u32 x) { return ~warp_most(~x); }

DS4_DEVICE int count_bits(u32 x) {
#ifdef DS4_EMULATION
    return __builtin_popcount(x);
#else
    return __popc(x);
#endif
}

DS4_DEVICE u32 atomic_add(u32 *p, u32 value) {
#ifdef DS4_EMULATION
    u32 old = *p;
    *p += value;
    return old;
#else
    return atomicAdd(p, value);
#endif
}

/// Sum over the warp in a fixed tree, in every lane.
DS4_DEVICE float warp_sum(float v) {
    for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}

DS4_DEVICE float warp_max(float v) {
    for (int mask = 16; mask > 0; mask /= 2) v = fmaxf(v, shuffle_xor(v, mask));
    return v;
}

/// Sum over a block of `warps` warps in a fixed order, in every thread. `scratch`: one float per warp.
DS4_DEVICE float block_sum(float v, float *scratch, int warps) {
    v = warp_sum(v);
    sync_block();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    sync_block();
    float sum = scratch[0];
    for (int w = 1; w < warps; w++) sum += scratch[w];
    return sum;
}

// --- matrix instructions ----------------------------------------------------------------------------------
//
// Lane l has g = l / 4 and t = l % 4. Of a 16 x K tile of A it holds rows g and g + 8, of a K x 8 tile of B column g, of the
// 16 x 8 result rows g (c0, c1) and g + 8 (c2, c3), columns 2t and 2t + 1. Which K elements a lane holds is ours to choose as
// long as A and B agree: a lane takes elements 8t .. 8t + 7 of each group of 32.

/// c += a * b over 32 int8 elements of each row and column; exact.
DS4_DEVICE void mma_s8(int (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef DS4_EMULATION
    struct {
        u32 a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *all = emulation::warp_compute(&mine, sizeof(mine), [](const unsigned char *in, unsigned char *out) {
        alignas(64) int A[16][32], B[8][32];
        for (int l = 0; l < 32; l++) {
            i8 v[24];
            memcpy(v, in + l * emulation::kExchangeStride, 24);
            int g = l / 4, t = l % 4;
            for (int i = 0; i < 4; i++) {
                A[g][t * 4 + i] = v[i], A[g + 8][t * 4 + i] = v[4 + i];
                A[g][16 + t * 4 + i] = v[8 + i], A[g + 8][16 + t * 4 + i] = v[12 + i];
                B[g][t * 4 + i] = v[16 + i], B[g][16 + t * 4 + i] = v[20 + i];
            }
        }
        for (int n = 0; n < 8; n++)
            for (int m = 0; m < 16; m++) {
                int sum = 0;
                for (int k = 0; k < 32; k++) sum += A[m][k] * B[n][k];
                int lane = m % 8 * 4 + n / 2, slot = m / 8 * 2 + n % 2;
                memcpy(out + lane * emulation::kExchangeStride + slot * 4, &sum, 4);
            }
    });
    const int *sums = reinterpret_cast<const int *>(all + emulation::current->lane * emulation::kExchangeStride);
    for (int i = 0; i < 4; i++) c[i] += sums[i];
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// c += a * b over 16 float16 elements, float32 sums. The order inside is the machine's, always the same.
DS4_DEVICE void mma_f16(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#ifdef DS4_EMULATION
    struct {
        u32 a[4], b[2];
        float c[4];
    } mine = {{a0, a1, a2, a3}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    const unsigned char *all = emulation::warp_compute(&mine, sizeof(mine), [](const unsigned char *in, unsigned char *out) {
        alignas(64) float A[16][16], B[8][16];
        for (int l = 0; l < 32; l++) {
            u16 v[12];
            memcpy(v, in + l * emulation::kExchangeStride, 24);
            int g = l / 4, t = l % 4;
            for (int i = 0; i < 2; i++) {
                A[g][t * 2 + i] = half_to_float(v[i]), A[g + 8][t * 2 + i] = half_to_float(v[2 + i]);
                A[g][8 + t * 2 + i] = half_to_float(v[4 + i]), A[g + 8][8 + t * 2 + i] = half_to_float(v[6 + i]);
                B[g][t * 2 + i] = half_to_float(v[8 + i]), B[g][8 + t * 2 + i] = half_to_float(v[10 + i]);
            }
        }
        for (int n = 0; n < 8; n++)
            for (int m = 0; m < 16; m++) {
                int lane = m % 8 * 4 + n / 2, slot = m / 8 * 2 + n % 2;
                float sum;
                memcpy(&sum, in + lane * emulation::kExchangeStride + 24 + slot * 4, 4);
                for (int k = 0; k < 16; k++) sum += A[m][k] * B[n][k];
                memcpy(out + lane * emulation::kExchangeStride + slot * 4, &sum, 4);
            }
    });
    memcpy(c, all + emulation::current->lane * emulation::kExchangeStride, 16);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#endif
}

/// Integer accumulators start here, so that as float bits they are 12582912 plus the sum: no conversion is needed.
constexpr int kMagicInt = 0x4B400000;
constexpr float kMagicFloat = 12582912.0f;

DS4_DEVICE float magic_sum(int c) { return as_float(u32(c)) - kMagicFloat; }

/// Loads four 8 x 8 matrices of 16-bit elements from shared memory: lane l has the address of row l % 8 of matrix l / 8. Of matrix j lane
/// 4 g + t gets elements 2 t and 2 t + 1 of row g.
DS4_DEVICE void load_matrices(u32 (&out)[4], const void *row) {
#ifdef DS4_EMULATION
    const unsigned char *all = emulation::warp_exchange(&row, sizeof(row));
    int lane = emulation::current->lane;
    for (int j = 0; j < 4; j++) {
        const u8 *from;
        memcpy(&from, all + (j * 8 + lane / 4) * emulation::kExchangeStride, sizeof(from));
        memcpy(&out[j], from + lane % 4 * 4, 4);
    }
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

/// The same of the matrices' transposes: elements 2 t and 2 t + 1 of column g.
DS4_DEVICE void load_transposed(u32 (&out)[4], const void *row) {
#ifdef DS4_EMULATION
    const unsigned char *all = emulation::warp_exchange(&row, sizeof(row));
    int lane = emulation::current->lane;
    for (int j = 0; j < 4; j++) {
        out[j] = 0;
        for (int k = 0; k < 2; k++) {
            const u8 *from;
            u16 value;
            memcpy(&from, all + (j * 8 + lane % 4 * 2 + k) * emulation::kExchangeStride, sizeof(from));
            memcpy(&value, from + lane / 4 * 2, 2);
            out[j] |= u32(value) << (16 * k);
        }
    }
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(u32(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

// --- functions --------------------------------------------------------------------------------------------

/// 1 / x, off by at most one in the last place.
DS4_DEVICE float reciprocal(float x) {
#ifdef DS4_EMULATION
    return 1.0f / x;
#else
    float out;
    asm("rcp.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
#endif
}

/// Larger scores have larger keys; -0 and +0 are the same.
DS4_DEVICE u32 order_key(float score) {
    u32 bits = as_bits(score + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DS4_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// `silu(min(gate, limit)) * clamp(up, ±limit)`.
DS4_DEVICE float swiglu(float gate, float up, float limit) {
    gate = fminf(gate, limit);
    return gate * sigmoid(gate) * fminf(fmaxf(up, -limit), limit);
}

/// The smallest power of two that is not below a positive normal `x`.
DS4_DEVICE float pow2_at_least(float x) {
    u32 bits = as_bits(x);
    u32 exponent = (bits >> 23 & 0xFF) + ((bits & 0x7FFFFF) != 0);
    return as_float(min_u(exponent, 254) << 23);
}

/// The int8 code of `x` under the factor `127 / amax`; halves away from zero.
DS4_DEVICE int quantize_code(float x, float id) { return int(roundf(x * id)); }

/// Scale and factor of a group of 32 by its largest magnitude, as `ds4_gguf::quant::activation` has them.
DS4_DEVICE void group_scale(float amax, float &d, float &id) {
    id = 127.0f / amax;
    d = amax / 127.0f;
    if (!(amax < infinity())) d = as_float(0x7FC00000), id = 0.0f;
    if (!(id < infinity())) d = 0.0f, id = 0.0f;
}

/// Largest magnitude; NaN wins.
DS4_DEVICE float max_magnitude(float a, float b) {
    b = fabsf(b);
    return b > a || b != b ? b : a;
}
