// The scheduler of the emulated device: one launch at a time on the calling thread, blocks one after the other.

#include "cuda_emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emulation {

thread_local Thread *current;
thread_local unsigned char *dynamic_shared;

namespace {

constexpr size_t kStack = 64 * 1024;

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Done };

struct Fiber {
    Thread thread{};
    State state = State::Ready;
    bool started = false;
    jmp_buf context;
    ucontext_t start;
    std::unique_ptr<unsigned char[]> stack;
    int warp = 0;
};

struct Warp {
    int living = 0;
    int arrived = 0;
    // Two areas in turn: the next exchange may begin while slow lanes still read the last.
    int turn = 0;
    alignas(64) unsigned char values[2][kWarp * kExchangeStride];
    alignas(64) unsigned char results[2][kWarp * kExchangeStride];
};

struct Kernel {
    Entry entry;
    size_t params_bytes;
};

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

struct Block {
    std::deque<Fiber> fibers;
    size_t threads = 0;
    std::vector<Warp> warps;
    int living = 0;
    int arrived = 0;
    jmp_buf scheduler;
    Fiber *running = nullptr;
    /// Threads that have left for another reason than to let others run.
    size_t moves = 0;
    Entry entry = nullptr;
    const void *params = nullptr;
    uint64_t random = 1;
};

thread_local Block block;

uint64_t next_random() {
    block.random ^= block.random << 13;
    block.random ^= block.random >> 7;
    block.random ^= block.random << 17;
    return block.random;
}

/// Rounds in which nobody may do anything but wait for others.
constexpr int kIdleRounds = 8;

void leave(State state) {
    if (state != State::Ready) block.moves++;
    Fiber *fiber = block.running;
    fiber->state = state;
    if (_setjmp(fiber->context) == 0) _longjmp(block.scheduler, 1);
}

void release_block() {
    block.arrived = 0;
    for (size_t i = 0; i < block.threads; i++)
        if (block.fibers[i].state == State::AtBlockBarrier) block.fibers[i].state = State::Ready;
}

void release_warp(int index) {
    block.warps[index].arrived = 0;
    for (int lane = 0; lane < kWarp; lane++) {
        size_t i = size_t(index) * kWarp + lane;
        if (i < block.threads && block.fibers[i].state == State::AtWarpBarrier) block.fibers[i].state = State::Ready;
    }
}

/// Runs one thread after the other, of as many blocks as there come: making a context is slow.
void fiber_main() {
    for (;;) {
        block.entry(block.params);
        Fiber *fiber = block.running;
        block.living--;
        Warp &warp = block.warps[fiber->warp];
        warp.living--;
        if (block.living > 0 && block.arrived == block.living) release_block();
        if (warp.living > 0 && warp.arrived == warp.living) release_warp(fiber->warp);
        leave(State::Done);
    }
}

void resume(Fiber &fiber) {
    block.running = &fiber;
    current = &fiber.thread;
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

void run_block(dim3 index, dim3 grid, dim3 size, bool shuffled) {
    size_t threads = size_t(size.x) * size.y * size.z;
    // Fibers stay where they are: their contexts point into them.
    while (block.fibers.size() < threads) block.fibers.emplace_back();
    block.threads = threads;
    block.warps.resize((threads + kWarp - 1) / kWarp);
    for (Warp &warp : block.warps) warp.living = warp.arrived = warp.turn = 0;
    for (size_t i = 0; i < threads; i++) {
        Fiber &fiber = block.fibers[i];
        if (!fiber.stack) fiber.stack.reset(new unsigned char[kStack]);
        fiber.thread = {{unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / (size.x * size.y))},
                        index, grid, size, int(i % kWarp)};
        fiber.state = State::Ready;
        fiber.warp = int(i / kWarp);
        block.warps[fiber.warp].living++;
    }
    block.living = int(threads);
    block.arrived = 0;
    int idle = 0;
    while (block.living > 0) {
        bool progress = false;
        size_t moves = block.moves;
        size_t offset = shuffled ? next_random() % threads : 0;
        for (size_t k = 0; k < threads; k++) {
            Fiber &fiber = block.fibers[(k + offset) % threads];
            if (fiber.state != State::Ready) continue;
            progress = true;
            resume(fiber);
        }
        // A thread that stops yielding comes to a barrier or to its end.
        idle = block.moves == moves ? idle + 1 : 0;
        if (!progress || idle == kIdleRounds) {
            std::fprintf(stderr, "emulation: the threads of a block wait for each other at different barriers\n");
            std::abort();
        }
    }
}

}  // namespace

Registration::Registration(const char *name, Entry entry, size_t params_bytes) {
    kernels()[name] = Kernel{entry, params_bytes};
}

void block_barrier() {
    if (++block.arrived == block.living) {
        release_block();
        return;
    }
    leave(State::AtBlockBarrier);
}

void yield() { leave(State::Ready); }

void warp_barrier() {
    int index = block.running->warp;
    Warp &warp = block.warps[index];
    if (++warp.arrived == warp.living) {
        release_warp(index);
        return;
    }
    leave(State::AtWarpBarrier);
}

const unsigned char *warp_exchange(const void *value, size_t bytes) {
    Warp &warp = block.warps[block.running->warp];
    int lane = block.running->thread.lane;
    unsigned char *area = warp.values[warp.turn];
    std::memcpy(area + lane * kExchangeStride, value, bytes);
    if (warp.arrived + 1 == warp.living) warp.turn ^= 1;
    warp_barrier();
    return area;
}

const unsigned char *warp_compute(const void *value, size_t bytes,
                                  void (*compute)(const unsigned char *, unsigned char *)) {
    Warp &warp = block.warps[block.running->warp];
    int lane = block.running->thread.lane;
    int turn = warp.turn;
    std::memcpy(warp.values[turn] + lane * kExchangeStride, value, bytes);
    if (warp.arrived + 1 == warp.living) {
        warp.turn ^= 1;
        compute(warp.values[turn], warp.results[turn]);
    }
    warp_barrier();
    return warp.results[turn];
}

}  // namespace emulation

/// Launches a kernel; 0 if it ran, 1 if there is none of that name, 2 if the parameters have another size.
extern "C" int ds4_emulation_launch(const char *name, const unsigned *grid, const unsigned *size, size_t shared,
                                    const void *params, size_t params_bytes, uint64_t seed) {
    using namespace emulation;
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    if (found->second.params_bytes != params_bytes) return 2;
    block.entry = found->second.entry;
    block.params = params;
    block.random = seed | 1;
    // What a kernel finds in shared memory is arbitrary.
    std::vector<unsigned char> memory(shared + 64, 0xA5);
    dynamic_shared = reinterpret_cast<unsigned char *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    dim3 g{grid[0], grid[1], grid[2]}, s{size[0], size[1], size[2]};
    size_t blocks = size_t(g.x) * g.y * g.z;
    for (size_t k = 0; k < blocks; k++) {
        size_t i = seed != 0 && (seed & 2) ? blocks - 1 - k : k;
        run_block({unsigned(i % g.x), unsigned(i / g.x % g.y), unsigned(i / (size_t(g.x) * g.y))}, g, s, seed != 0);
    }
    return 0;
}
