// Run CUDA kernels on the CPU: the threads of a block are contexts that take turns, each until its next barrier of the
// block or of its warp. Enough for kernels whose threads work together through shared memory, atomics and exchanges within
// a warp. Slow and exact: it shows that the kernels' arithmetic, indices and order of sums are right and that all threads
// meet at the same barriers, and says nothing about races or speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define ALQ_DEVICE inline
#define ALQ_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulated::dynamic_shared)
#define __global__ inline
#define __shared__ static
#define __launch_bounds__(...)

namespace emulated {

struct Index {
  unsigned x;
};

// A thread of every block: it stays when one has ended, for the next. Jumps between threads and the scheduler save no mask
// of signals, which swapcontext asks the system for: here that would be most of the time.
struct Thread {
  static constexpr size_t kStackBytes = 64 * 1024;
  std::unique_ptr<char[]> stack;
  ucontext_t start;
  jmp_buf place;
  bool started = false;
};

alignas(64) inline unsigned char dynamic_shared[256 * 1024];
inline jmp_buf scheduler;
inline std::vector<std::unique_ptr<Thread>> threads;
enum class State : char { ready, at_warp, at_block, ended };
inline std::vector<State> states;
inline std::function<void()> body;

}  // namespace emulated

inline emulated::Index threadIdx, blockIdx, gridDim;

namespace emulated {

// Let the other threads go on, and return when all of the warp or block, but those that have ended, have come as far.
inline void wait(State where) {
  const unsigned self = threadIdx.x;
  states[self] = where;
  if (!_setjmp(threads[self]->place)) _longjmp(scheduler, 1);
}

inline void run_thread() {
  for (;;) {
    body();
    wait(State::ended);
  }
}

// Let a thread go on, and return when it waits.
inline void resume(Thread& thread) {
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  setcontext(&thread.start);
}

// Let the threads begin <= t < end go on if all of them that have not ended wait there. Return whether any does.
inline bool release(State where, size_t begin, size_t end) {
  bool any = false;
  for (size_t t = begin; t < end; ++t) {
    if (states[t] != where && states[t] != State::ended) return false;
    any = any || states[t] == where;
  }
  for (size_t t = begin; t < end; ++t)
    if (states[t] == where) states[t] = State::ready;
  return any;
}

inline void run_block() {
  const size_t count = states.size();
  for (size_t ended = 0; ended < count;) {
    for (size_t t = 0; t < count; ++t)
      if (states[t] == State::ready) {
        threadIdx.x = static_cast<unsigned>(t);
        resume(*threads[t]);
        ended += states[t] == State::ended;
      }
    bool any = release(State::at_block, 0, count);
    for (size_t warp = 0; warp < count; warp += 32) any = release(State::at_warp, warp, warp + 32) || any;
    if (ended < count && !any) {
      std::fprintf(stderr, "the threads of block %u wait at different barriers\n", blockIdx.x);
      std::abort();
    }
  }
}

// Run `grid` blocks of `block` threads, one block after another.
inline void launch(unsigned grid, unsigned block, std::function<void()> kernel) {
  while (threads.size() < block) {
    threads.push_back(std::make_unique<Thread>());
    Thread& thread = *threads.back();
    thread.stack.reset(new char[Thread::kStackBytes]);
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = Thread::kStackBytes;
    makecontext(&thread.start, run_thread, 0);
  }
  body = std::move(kernel);
  gridDim.x = grid;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
    states.assign(block, State::ready);
    run_block();
  }
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait(emulated::State::at_block); }

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
inline void atomicOr(uint32_t* to, uint32_t value) { *to |= value; }
inline void atomicMin(int* to, int value) { *to = value < *to ? value : *to; }
inline void atomicMax(int* to, int value) { *to = value > *to ? value : *to; }

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

namespace alq {
using std::sqrt;
// Two buffers in turn: a thread cannot write into one before all of its warp have read it.
inline double exchange(double value, int mask) {
  static double slots[2][1024];
  static unsigned turns[1024];
  const unsigned self = threadIdx.x, turn = turns[self]++ % 2;
  slots[turn][self] = value;
  emulated::wait(emulated::State::at_warp);
  return slots[turn][self ^ mask];
}
template <uint32_t by>
void add_unless_below(uint32_t& to, float x, float y) {
  if (x >= y) to += by;
}
template <uint32_t by>
void add_if_above(uint32_t& to, float x, float y) {
  if (x > y) to += by;
}
template <int lanes, typename Number>
Number from_lane(Number value, uint32_t lane) {
  static Number slots[2][1024];
  static unsigned turns[1024];
  const unsigned self = threadIdx.x, turn = turns[self]++ % 2;
  slots[turn][self] = value;
  emulated::wait(emulated::State::at_warp);
  return slots[turn][self / lanes * lanes + lane % lanes];
}
inline uint32_t sum_of_warp(uint32_t value) {
  static uint32_t slots[2][1024];
  static unsigned turns[1024];
  const unsigned self = threadIdx.x, turn = turns[self]++ % 2;
  slots[turn][self] = value;
  emulated::wait(emulated::State::at_warp);
  uint32_t sum = 0;
  for (unsigned t = self / 32 * 32; t < self / 32 * 32 + 32; ++t) sum += slots[turn][t];
  return sum;
}
inline uint32_t shifted(uint32_t low, uint32_t high, int by) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> by);
}
inline uint32_t chosen_bytes(uint32_t low, uint32_t high, uint32_t which) {
  uint32_t bytes = 0;
  for (int k = 0; k < 4; ++k)
    bytes |= static_cast<uint32_t>((uint64_t{high} << 32 | low) >> 8 * (which >> 4 * k & 7) & 0xff) << 8 * k;
  return bytes;
}
inline bool all_of_warp(bool value) { return sum_of_warp(value) == 32; }
inline void meet_warp() { emulated::wait(emulated::State::at_warp); }
inline void add_from_warp(uint32_t* to, uint32_t value) { *to += value; }
inline uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}
inline void forget(int&) {}
inline uint32_t opaque(uint32_t value) { return value; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused(double a, double b, double c) { return std::fma(a, b, c); }
inline float half_to_float(uint16_t bits) {
  const float magnitude = (bits & 0x7c00) == 0x7c00 ? __uint_as_float(0x7f800000u | (bits & 0x3ffu) << 13)
                                                    : std::ldexp(static_cast<float>((bits & 0x7c00) ? (bits & 0x3ff) | 0x400 : bits & 0x3ff),
                                                                 ((bits & 0x7c00) ? (bits >> 10 & 31) : 1) - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}
inline uint16_t float_to_half(float value) {  // round to nearest, ties to even, by counting steps of the half's own size
  const uint32_t bits = __float_as_uint(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(value);
  if (magnitude != magnitude) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  const int exponent = magnitude < 6.103515625e-05f ? -14 : std::ilogb(magnitude);
  const long steps = std::lrint(std::ldexp(magnitude, 10 - exponent));
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + steps));
}
inline uint16_t float_to_brain(float value) {
  uint32_t bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<uint16_t>(bits >> 16);
}
}  // namespace alq
