// CUDA C++ on a CPU: enough of the language to compile the kernels as plain C++ and run them block by block.
//
// A block's threads are fibers of one operating-system thread. They change over only where CUDA synchronizes (barriers, warp
// exchanges), in an order drawn from a seed, so that code relying on an order that CUDA does not promise gives other bits
// from seed to seed. Everything that kernels use beyond plain C++ is declared here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define DS4_EMULATION 1

struct uint2 {
    unsigned int x, y;
};
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned int x, y, z;
};

namespace emulation {

constexpr int kWarp = 32;

/// What the running fiber is.
struct Thread {
    dim3 thread, block, grid, size;
    int lane;
};

extern thread_local Thread *current;
extern thread_local unsigned char *dynamic_shared;

/// Waits for all living threads of the block.
void block_barrier();
/// Waits for all threads of the warp.
void warp_barrier();
/// Lets other threads run; for threads that wait until another one has written something.
void yield();
/// Gives `bytes` of every lane to all lanes: returns the warp's values, lane after lane, `stride` apart.
const unsigned char *warp_exchange(const void *value, size_t bytes);
constexpr size_t kExchangeStride = 64;

using Entry = void (*)(const void *params);
/// Makes a kernel known by name; called before main.
struct Registration {
    Registration(const char *name, Entry entry, size_t params_bytes);
};

/// Products of the matrix instruction for all 32 lanes: each lane's registers as they lie in the exchange area.
void mma_s8_warp(const unsigned char *lanes, int *results);
void mma_f16_warp(const unsigned char *lanes, float *results);
/// Runs `compute` once for the warp, with all lanes' values, and returns the warp's results.
const unsigned char *warp_compute(const void *value, size_t bytes, void (*compute)(const unsigned char *, unsigned char *));

}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::current->block)
#define gridDim (emulation::current->grid)
#define blockDim (emulation::current->size)

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
// A block runs on one operating-system thread, one block at a time.
#define __shared__ static thread_local
#define __launch_bounds__(...)

#define DS4_KERNEL(name, threads, blocks, Params)                                                          \
    static void name(const Params p);                                                                      \
    static void name##_entry(const void *params) { name(*static_cast<const Params *>(params)); }           \
    static emulation::Registration name##_registration(#name, name##_entry, sizeof(Params));               \
    static void name([[maybe_unused]] const Params p)
#define DS4_DYNAMIC_SHARED(name) unsigned char *name = emulation::dynamic_shared
