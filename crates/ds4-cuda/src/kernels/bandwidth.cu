// Reads memory and does nothing else: what decoding is measured against.
#include "common.cuh"

struct ReadAllParams {
    /// Pieces of 16 bytes, and one word for each thread of the launch.
    u64 from, sums, pieces;
};

/// Each thread's exclusive-or of what it read, so that no load can be left out. grid: any; 256 threads.
DS4_KERNEL(read_all, 256, 4, ReadAllParams) {
    constexpr int kAhead = 8;
    const uint4 *from = ptr<const uint4>(p.from);
    u64 thread = u64(blockIdx.x) * 256 + threadIdx.x, threads = u64(gridDim.x) * 256;
    u32 sum = 0;
    for (u64 first = thread; first < p.pieces; first += threads * kAhead) {
        uint4 v[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            u64 at = first + u64(i) * threads;
            v[i] = at < p.pieces ? load_stream(from + at) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
    }
    ptr<u32>(p.sums)[thread] = sum;
}
