// What the kernels stand on: element types, how a fusion group is quantised, norms. No CUDA header is needed.
#pragma once

#include "rotation.h"
#include "strata.h"

#if defined(ALQ_EMULATED)
#include "emulate_cuda.h"  // tests/native: runs a block's threads one after another on the CPU
#else
using uint16_t = unsigned short;
#define ALQ_DEVICE __device__ __forceinline__
#define ALQ_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
namespace alq {
ALQ_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ALQ_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
// Add `by` where x >= y, or x > y. Compilers would add, compare and select: one instruction more a step of a search.
template <uint32_t by>
ALQ_DEVICE void add_unless_below(uint32_t& to, float x, float y) {
  asm("{.reg .pred p; setp.ge.f32 p, %1, %2; @p add.u32 %0, %0, %3;}" : "+r"(to) : "f"(x), "f"(y), "n"(by));
}
template <uint32_t by>
ALQ_DEVICE void add_if_above(uint32_t& to, float x, float y) {
  asm("{.reg .pred p; setp.gt.f32 p, %1, %2; @p add.u32 %0, %0, %3;}" : "+r"(to) : "f"(x), "f"(y), "n"(by));
}
// Keep the compiler from holding in registers what it has derived from `index`: deriving it again is cheaper.
ALQ_DEVICE void forget(int& index) { asm volatile("" : "+r"(index)); }
// Return `value`, of whose making the compiler knows nothing.
ALQ_DEVICE uint32_t opaque(uint32_t value) {
  asm("" : "+r"(value));
  return value;
}
// Return the value of the thread whose lane differs by the bits of `mask`; all threads of the warp must call it.
ALQ_DEVICE double exchange(double value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
// The same for a float or uint32_t, from the thread whose lane is `lane` modulo `lanes`, a power of two, among the `lanes` of this one.
template <int lanes, typename Number>
ALQ_DEVICE Number from_lane(Number value, uint32_t lane) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(lane), lanes);
}
// Whether all threads of a warp, which must all call it, say so.
ALQ_DEVICE bool all_of_warp(bool value) { return __all_sync(0xffffffffu, value); }
// Wait for what the other threads of the warp have written to shared memory.
ALQ_DEVICE void meet_warp() { __syncwarp(); }
// Return the low word of `high` and `low` side by side, shifted right.
ALQ_DEVICE uint32_t shifted(uint32_t low, uint32_t high, int by) { return __funnelshift_r(low, high, by); }
// Return four of the eight bytes of `low` and `high`, chosen by the four low digits of `which`, to base 16.
ALQ_DEVICE uint32_t chosen_bytes(uint32_t low, uint32_t high, uint32_t which) { return __byte_perm(low, high, which); }
// Return the sum of what the 32 threads of a warp bring, all of which must call it; or add it to `to`.
ALQ_DEVICE uint32_t sum_of_warp(uint32_t value) { return __reduce_add_sync(0xffffffffu, value); }
ALQ_DEVICE void add_from_warp(uint32_t* to, uint32_t value) {
  const uint32_t sum = sum_of_warp(value);
  if (threadIdx.x % 32 == 0) atomicAdd(to, sum);
}
// Return the bits of a number.
ALQ_DEVICE uint64_t bits_of(double value) { return static_cast<uint64_t>(__double_as_longlong(value)); }
ALQ_DEVICE float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
ALQ_DEVICE uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
ALQ_DEVICE uint16_t float_to_brain(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
}  // namespace alq
#endif

namespace alq {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kMostNorms = 128;  // of one chunk: buckets of 64 or more in chunks of 8192
constexpr uint32_t kNan = 0x7fc00000u;
constexpr uint32_t kInfinity = 0x7f800000u;

// 16-bit floats as their bits.
struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

ALQ_DEVICE float to_float(float value) { return value; }
ALQ_DEVICE float to_float(Half value) { return half_to_float(value.bits); }
ALQ_DEVICE float to_float(Brain value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
ALQ_DEVICE void from_float(float value, float& to) { to = value; }
ALQ_DEVICE void from_float(float value, Half& to) { to.bits = float_to_half(value); }
ALQ_DEVICE void from_float(float value, Brain& to) { to.bits = float_to_brain(value); }

// How a fusion group is quantised; the same for every block.
struct Group {
  uint32_t elements, bucket_size;
  uint32_t maximum_norm;  // 0: Euclidean
  uint32_t rounds;        // of the rotation; 0 does not rotate
  double clip;            // standard deviations; 0 does not clip
  double reach;           // standard deviations that 1 stands for, in rounding to the nearest; 0 rounds stochastically
  StreamKey signs;        // of the rotation, for an encoder; a decoder finds them in the record
  int tiles_log2;         // of a bucket that the threads of a block can hold (held.cuh), else -1; see cuda_structs.py
  float scale;            // of the block that such a bucket is, where it is rotated
  uint32_t* unshifted;    // uint32[kStrataPeriod], where an encoder has several strata: see begin_record
  float dither;           // what a draw, less its mean, is multiplied by before it is added to its level; 0 adds nothing
  int strata_log2;        // of the least power of two that is not below the number of strata
  Strata strata;          // of an encoder
};

constexpr uint32_t kHeaderWords = 8;
constexpr uint32_t kDrawsWords = 4;  // a dithered record names its draws in so many, right before its norms

// Return where the norms of a record start, in 32-bit words: behind the header and what names the signs and the draws.
ALQ_DEVICE uint32_t norms_offset(const Group& group) {
  return kHeaderWords + (group.rounds ? kRotationBytes / 4 : 0) + (group.dither > 0 ? kDrawsWords : 0);
}

// Return what draw_bits gives a rank with several strata: the stratum, then what it draws inside.
ALQ_DEVICE uint32_t draw_bits_in(const Group& group, uint32_t stratum, uint32_t own) {
  return shifted(own, stratum, group.strata_log2) & 0xffffff00u;
}

// Return what a receiver adds to the level of an element, from the number that it draws again; `width` as Group::dither.
ALQ_DEVICE float dither_of(float width, uint32_t draw) { return (static_cast<float>(draw >> 8) - kMeanDraw) * width; }

// Level tables in device memory: float32[4][256], levels padded with infinity, scaled inverse gaps padded with zero, the
// search tree (kernels.h), levels padded with the last one; then the smallest magnitude of a level that is not zero.
struct Tables {
  float levels[256], scaled_inverse_gaps[256], tree[256], decoded[256];
  float smallest_level;
};

struct Fused {
  ALQ_DEVICE float operator()(float a, float b, float c) const { return fused(a, b, c); }
};

// Return sum + a * b: exact in the product, so rounded once as any codec rounds it.
ALQ_DEVICE double plus_product(float a, float b, double sum) {
  return fused(static_cast<double>(a), static_cast<double>(b), sum);
}

struct Add {
  ALQ_DEVICE double operator()(double a, double b) const { return a + b; }
};
struct Larger {
  ALQ_DEVICE double operator()(double a, double b) const { return a > b ? a : b; }
};
struct Square {
  ALQ_DEVICE double operator()(float x) const { return static_cast<double>(x) * x; }
};
// What is summed over a bucket on the way to its norm: values, squares or, where the largest is taken, magnitudes, whose order is
// that of their bits, NaN being the largest. It is asked at each value, for a kernel with three copies of each sum would be
// twice as long; buckets that threads hold (held.cuh) do not ask.
struct Measure {
  enum What { kValues, kSquares, kMagnitudes } what;

  ALQ_DEVICE double operator()(float x) const {
    if (what == kMagnitudes) return static_cast<double>(__float_as_uint(x) & 0x7fffffffu);
    return what == kSquares ? Square()(x) : static_cast<double>(x);
  }
  ALQ_DEVICE double operator()(double a, double b) const {
    return what == kMagnitudes ? Larger()(a, b) : Add()(a, b);
  }
};

// Fold the kSumLanes numbers in `lanes` (shared) in halves into the first; every thread must call it.
template <typename Combine>
ALQ_DEVICE void fold(double* lanes, int half, Combine combine) {
  for (__syncthreads(); half > 0; half /= 2, __syncthreads())
    for (int s = threadIdx.x; s < half; s += kThreads) lanes[s] = combine(lanes[s], lanes[s + half]);
}

// Return a norm as it is sent: NaN for a bucket that is not finite, 0 for one too small to normalise.
ALQ_DEVICE float sendable(float norm) {
  if (!(norm <= kLargestNorm)) return __uint_as_float(kNan);
  return norm < kSmallestNorm ? 0.0f : norm;
}

// Return what the coordinates of a bucket of `count` are divided by, from their sum of squares or the bits of the largest;
// `reach` as Group::reach.
ALQ_DEVICE float finished_norm(const Group& group, double total, double count, double reach) {
  if (group.maximum_norm) return sendable(__uint_as_float(static_cast<uint32_t>(total)));
  if (reach > 0) return sendable(static_cast<float>(sqrt(total / count) * reach));
  return sendable(static_cast<float>(sqrt(total)));
}

// Return the largest magnitude that clipping leaves, from the sums of a bucket.
ALQ_DEVICE float clip_limit(double sum, double squares, double count, double clip) {
  const double mean = sum / count, variance = squares / count - mean * mean;
  return variance > 0 ? static_cast<float>(clip * sqrt(variance)) : __uint_as_float(kInfinity);
}

// Copy `count` words of the tables into shared memory.
ALQ_DEVICE void copy_table(const float* from, float* to, int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
}

}  // namespace alq
