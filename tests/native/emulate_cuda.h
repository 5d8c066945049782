// Run CUDA kernels on the CPU: the threads of a block are contexts that take turns, each until its next __syncthreads().
// Enough for kernels whose blocks and warps work together through shared memory and atomics alone. Slow and exact: it shows
// that the kernels' arithmetic, indices and order of sums are right, and says nothing about races or speed.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define ALQ_DEVICE inline
#define ALQ_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulated::dynamic_shared)
#define __global__ inline
#define __shared__ static
#define __launch_bounds__(threads)

namespace emulated {

struct Index {
  unsigned x;
};

alignas(64) inline unsigned char dynamic_shared[256 * 1024];
inline ucontext_t scheduler;
inline std::vector<ucontext_t> threads;
inline std::vector<bool> ended;
inline std::function<void()> body;

}  // namespace emulated

inline emulated::Index threadIdx, blockIdx, gridDim;

namespace emulated {

inline void run_thread() {
  body();
  ended[threadIdx.x] = true;
  swapcontext(&threads[threadIdx.x], &scheduler);
}

// Run `grid` blocks of `block` threads, one block after another.
inline void launch(unsigned grid, unsigned block, std::function<void()> kernel) {
  constexpr size_t stack_bytes = 64 * 1024;
  static std::vector<char> stacks;
  stacks.resize(block * stack_bytes);
  body = std::move(kernel);
  gridDim.x = grid;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
    threads.assign(block, ucontext_t());
    ended.assign(block, false);
    for (unsigned t = 0; t < block; ++t) {
      getcontext(&threads[t]);
      threads[t].uc_stack.ss_sp = stacks.data() + t * stack_bytes;
      threads[t].uc_stack.ss_size = stack_bytes;
      makecontext(&threads[t], run_thread, 0);
    }
    for (bool alive = true; alive;) {
      alive = false;
      for (unsigned t = 0; t < block; ++t)
        if (!ended[t]) {
          threadIdx.x = t;
          swapcontext(&scheduler, &threads[t]);
          alive = alive || !ended[t];
        }
    }
  }
}

}  // namespace emulated

inline void __syncthreads() {
  const unsigned self = threadIdx.x;
  swapcontext(&emulated::threads[self], &emulated::scheduler);
}

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
inline void atomicOr(uint32_t* to, uint32_t value) { *to |= value; }

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
inline void add_from_warp(uint32_t* to, uint32_t value) { *to += value; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
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
