// Matrix instructions of a warpgroup (four warps; compute capability 9.0), and the barriers by which some warps bring weights and columns
// into shared memory while others multiply.
//
// A warp has 16 of the 64 rows: its operand of a group of 32 is that of `mma_s8`, and so are its results. The columns of the batch lie in
// shared memory in tiles of four groups: 128 bytes per column, in which piece q of 16 bytes of column c is at place q ^ c % 8. Their
// codes have an order (`turned_place`) in which those of a lane are where the instruction looks for them.
//
// The instruction runs while its warps go on; `wait_group` comes before results are read. Emulated, it is `mma_s8` at once.
#pragma once
#include "tile.cuh"

#if !defined(DS4_EMULATION) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DS4_WARPGROUPS 1
#endif

#if defined(DS4_WARPGROUPS) || defined(DS4_EMULATION)
constexpr bool kHasWarpgroups = true;
#else
constexpr bool kHasWarpgroups = false;
#endif

/// For kernels that a card without these instructions is never asked to run.
DS4_DEVICE void refuse() {
#ifndef DS4_EMULATION
    asm volatile("trap;");
#endif
}

#ifdef DS4_WARPGROUPS
DS4_DEVICE void wgmma_step(int (&c)[2][4], const u32 (&a)[4], u64 columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, %12, 0;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]),
          "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns));
}
DS4_DEVICE void wgmma_step(int (&c)[4][4], const u32 (&a)[4], u64 columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, 0;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]),
          "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]),
          "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns));
}
DS4_DEVICE void wgmma_step(int (&c)[6][4], const u32 (&a)[4], u64 columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23}, "
        "{%24, %25, %26, %27}, %28, 0;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]),
          "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]),
          "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3]),
          "+r"(c[4][0]), "+r"(c[4][1]), "+r"(c[4][2]), "+r"(c[4][3]),
          "+r"(c[5][0]), "+r"(c[5][1]), "+r"(c[5][2]), "+r"(c[5][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns));
}
DS4_DEVICE void wgmma_step(int (&c)[8][4], const u32 (&a)[4], u64 columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, 0;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]),
          "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]),
          "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3]),
          "+r"(c[4][0]), "+r"(c[4][1]), "+r"(c[4][2]), "+r"(c[4][3]),
          "+r"(c[5][0]), "+r"(c[5][1]), "+r"(c[5][2]), "+r"(c[5][3]),
          "+r"(c[6][0]), "+r"(c[6][1]), "+r"(c[6][2]), "+r"(c[6][3]),
          "+r"(c[7][0]), "+r"(c[7][1]), "+r"(c[7][2]), "+r"(c[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns));
}

/// c += float16 of the warp's rows times columns.
DS4_DEVICE void wgmma_step(float (&c)[8][4], u32 a0, u32 a1, u32 a2, u32 a3, u64 columns) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
          "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
          "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
          "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
          "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
          "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
          "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(columns));
}

/// Of columns from a multiple of 1024 bytes on, as the instruction wants it: eight columns are 1024 bytes, 128-byte swizzle.
DS4_DEVICE u64 column_descriptor(const void *columns) {
    return u64(u32(__cvta_generic_to_shared(columns)) >> 4) | u64(1) << 16 | u64(64) << 32 | u64(1) << 62;
}
#endif

/// Columns in shared memory, at a multiple of 1024 bytes.
struct WideColumns {
    u64 place;

    DS4_MEMBER explicit WideColumns(const void *columns) {
#ifdef DS4_WARPGROUPS
        place = column_descriptor(columns);
#else
        place = reinterpret_cast<u64>(columns);
#endif
    }
    /// So many bytes on: a multiple of 1024 for other columns, of 32 below 128 for other steps.
    DS4_MEMBER u64 at(u32 bytes) const {
#ifdef DS4_WARPGROUPS
        return place + bytes / 16;
#else
        return place + bytes;
#endif
    }
};

/// c = a group of 32 of the warp's rows times columns, from byte `from` on.
template <int NT>
DS4_DEVICE void start_group(int (&c)[NT][4], const u32 (&a)[4], const WideColumns &columns, u32 from) {
#if defined(DS4_WARPGROUPS)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    wgmma_step(c, a, columns.at(from));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#elif defined(DS4_EMULATION)
    u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, offset = from % 128;
    const u8 *column = reinterpret_cast<const u8 *>(columns.at(from - offset)) + g * 128 + t * 4;
    for (int n = 0; n < NT; n++) {
        for (int i = 0; i < 4; i++) c[n][i] = 0;
        u32 piece = offset / 16;
        u32 operand[2] = {load<u32>(column + n * 1024 + (piece ^ g) * 16), load<u32>(column + n * 1024 + ((piece + 1) ^ g) * 16)};
        mma_s8(c[n], a, operand);
    }
#endif
}

/// c += a float16 matrix's group times columns in two float16, in the order of `accumulate_half`; the first half of the group's elements,
/// then the second. `from`: byte of the group, which has 64. Ends a group of instructions only with `end_group`.
DS4_DEVICE void add_halves_group(float (&c)[8][4], const u32 (&a)[8], const WideColumns &hi, const WideColumns &lo, u32 from) {
#if defined(DS4_WARPGROUPS)
    wgmma_step(c, a[0], a[1], a[2], a[3], hi.at(from));
    wgmma_step(c, a[0], a[1], a[2], a[3], lo.at(from));
    wgmma_step(c, a[4], a[5], a[6], a[7], hi.at(from + 32));
    wgmma_step(c, a[4], a[5], a[6], a[7], lo.at(from + 32));
#elif defined(DS4_EMULATION)
    u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int n = 0; n < 8; n++)
        for (u32 step = 0; step < 2; step++)
            for (int part = 0; part < 2; part++) {
                const u8 *column = reinterpret_cast<const u8 *>((part == 0 ? hi : lo).at(n * 1024)) + g * 128 + t * 4;
                u32 piece = from / 16 + step * 2;
                mma_f16(c[n], a[step * 4], a[step * 4 + 1], a[step * 4 + 2], a[step * 4 + 3], load<u32>(column + (piece ^ g) * 16),
                        load<u32>(column + ((piece + 1) ^ g) * 16));
            }
#endif
}

/// Operands and sums are as the instructions find them; and the end of a group of instructions.
DS4_DEVICE void begin_group() {
#ifdef DS4_WARPGROUPS
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
DS4_DEVICE void end_group() {
#ifdef DS4_WARPGROUPS
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/// Waits until none is running; `c` are the results.
DS4_DEVICE void wait_all(float (&c)[2][8][4], const u32 (&a)[2][8]) {
#ifdef DS4_WARPGROUPS
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+f"(c[i / 32][i / 4 % 8][i % 4])::"memory");
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" ::"r"(a[i / 8][i % 8]) : "memory");
#else
    (void)c, (void)a;
#endif
}

/// Waits until at most the last LEFT groups are running; `c` is the result of one that has ended, from operand `a`.
template <int LEFT, int NT>
DS4_DEVICE void wait_group(int (&c)[NT][4], const u32 (&a)[4]) {
#ifdef DS4_WARPGROUPS
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
    // Neither are results read before, nor the operand's registers used for something else.
#pragma unroll
    for (int n = 0; n < NT; n++) asm volatile("" : "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])::"memory");
    asm volatile("" ::"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]) : "memory");
#else
    (void)c, (void)a;
#endif
}

/// A lane's scales of a group: of columns 2 t and 2 t + 1 of NT octets.
template <int NT>
struct ColumnScales {
    float4 d[NT / 2];

    /// `scales`: of the lane's first columns.
    DS4_MEMBER void load_from(const float *scales) {
#pragma unroll
        for (int n = 0; n < NT / 2; n++) d[n] = load<float4>(scales + n * 16);
    }
};

/// Adds a group's sums times the scales of rows g and g + 8 and of the columns.
template <int NT>
DS4_DEVICE void add_scaled(const int (&c)[NT][4], float s0, float s1, const ColumnScales<NT> &scales, float (&to)[NT][4]) {
#pragma unroll
    for (int n = 0; n < NT; n += 2) {
        float4 d = scales.d[n / 2];
        to[n][0] = fmaf(float(c[n][0]), s0 * d.x, to[n][0]), to[n][1] = fmaf(float(c[n][1]), s0 * d.y, to[n][1]);
        to[n][2] = fmaf(float(c[n][2]), s1 * d.x, to[n][2]), to[n][3] = fmaf(float(c[n][3]), s1 * d.y, to[n][3]);
        to[n + 1][0] = fmaf(float(c[n + 1][0]), s0 * d.z, to[n + 1][0]), to[n + 1][1] = fmaf(float(c[n + 1][1]), s0 * d.w, to[n + 1][1]);
        to[n + 1][2] = fmaf(float(c[n + 1][2]), s1 * d.z, to[n + 1][2]), to[n + 1][3] = fmaf(float(c[n + 1][3]), s1 * d.w, to[n + 1][3]);
    }
}

/// Stores NT octets of columns of a tile of 16 rows, of which there are `count`; column c is row `row(c)` of y.
template <int NT, class Row>
DS4_DEVICE void store_columns(const Weight &w, u32 tile, const float (&sums)[NT][4], int count, float *y, u32 stride, float scale,
                              const Row &row) {
    u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int column = n * 8 + int(t) * 2 + k;
            if (column >= count) continue;
            float *to = y + u64(row(column)) * stride + tile * 16 + g;
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (tile * 16 + g + half * 8 < w.rows) to[half * 8] = sums[n][half * 2 + k] * scale;
        }
}

// --- barriers ---------------------------------------------------------------------------------------------

/// Counts arrivals in shared memory; whenever all have come, its phase changes. Phases are numbered from 0.
struct alignas(8) Barrier {
    u32 left, rest;

    /// One thread, before a barrier of the block.
    DS4_MEMBER void start(u32 arrivals) {
#ifdef DS4_EMULATION
        left = arrivals, rest = arrivals << 1;
#else
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
#endif
    }
    DS4_MEMBER void arrive() {
#ifdef DS4_EMULATION
        if (--left == 0) left = rest >> 1, rest ^= 1;
#elif defined(DS4_HOPPER)
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
#endif
    }
    /// Arrives when this thread's copies of single pieces are there.
    DS4_MEMBER void arrive_after_copies() {
#ifdef DS4_EMULATION
        arrive();
#elif defined(DS4_HOPPER)
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address()) : "memory");
#endif
    }
    /// Waits for the end of the latest phase of this parity. What threads wrote before they arrived is there.
    DS4_MEMBER void wait(u32 parity) {
#ifdef DS4_EMULATION
        while ((rest & 1) == parity) emulation::yield();
#elif defined(DS4_HOPPER)
        asm volatile(
            "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
                address()),
            "r"(parity)
            : "memory");
#endif
    }
#ifndef DS4_EMULATION
    DS4_MEMBER u32 address() const { return u32(__cvta_generic_to_shared(this)); }
#endif
};

/// Where in a ring of stages a thread is, and the parity of that stage's barriers.
template <u32 STAGES>
struct RingPlace {
    u32 slot = 0, parity = 0;

    DS4_MEMBER void next() {
        slot++;
        if (slot == STAGES) slot = 0, parity ^= 1;
    }
};

/// A ring's barriers: whether a stage is filled, and whether it is free.
template <u32 STAGES>
struct RingBarriers {
    Barrier filled[STAGES], empty[STAGES];

    DS4_MEMBER void start(u32 producers, u32 consumers) {
#pragma unroll
        for (u32 s = 0; s < STAGES; s++) filled[s].start(producers), empty[s].start(consumers);
    }
};

/// Makes what copies of single pieces and stores have brought into shared memory, as far as this thread knows of it, visible to the
/// matrix instructions.
DS4_DEVICE void fence_copies() {
#ifdef DS4_HOPPER
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Registers of each thread of this warpgroup from now on; all of its warps say so.
template <int COUNT>
DS4_DEVICE void more_registers() {
#ifdef DS4_WARPGROUPS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
template <int COUNT>
DS4_DEVICE void fewer_registers() {
#ifdef DS4_WARPGROUPS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

/// Dynamic shared memory from a multiple of 1024 bytes on.
template <class Memory>
DS4_DEVICE Memory &aligned_memory(unsigned char *memory) {
#ifdef DS4_EMULATION
    u32 behind = u32(reinterpret_cast<u64>(memory) % 1024);
#else
    u32 behind = u32(__cvta_generic_to_shared(memory)) % 1024;
#endif
    // The compiler has to see that it is still shared memory.
    return *reinterpret_cast<Memory *>(memory + (1024 - behind) % 1024);
}
