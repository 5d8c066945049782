// The arithmetic of one coordinate, written once for every compiler.
//
// The C++ extension and the CUDA kernels include this file; the NumPy codec (codec/reference.py) is its specification.
// Compiled without FMA contraction, all three give the same bytes: only float32 compare, subtract, multiply and
// divide and integer operations are used, each of which IEEE 754 or C defines to the bit. The functions are templates so
// that the CPU instantiates them with vectors of coordinates and the GPU with single ones.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define ALQ_INLINE __host__ __device__ __forceinline__
#else
#define ALQ_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDACC_RTC__)
using uint8_t = unsigned char;
using uint32_t = unsigned int;
using int32_t = int;
using uint64_t = unsigned long long;
using int64_t = long long;
#else
#include <cstdint>
#endif

namespace alq {

// Codes are packed in tiles of 32 rows by 32 lanes: element e of a tile is row e / 32 of lane e % 32. A lane's codes
// fill `bits` 32-bit words from the low bit up, so packing never moves data between lanes.
constexpr int kLanes = 32;
constexpr int kRows = 32;
constexpr int kTile = kLanes * kRows;

// Sums over a bucket are kSumLanes interleaved float64 sums (element i goes to sum i % kSumLanes, in order of i), then
// folded in halves: sum k += sum k + 512, then + 256, ... down to 1. The order makes norms equal to the bit on every
// codec. The square of a float32 is exact in float64.
constexpr int kSumLanes = 1024;

// A norm below the smallest normal float32 is sent as zero: devices may flush such numbers, and reciprocals overflow.
constexpr float kSmallestNorm = 1.17549435e-38f;

// Two words of key, derived on the host from (seed, step, rank, fusion group, shot).
struct StreamKey {
  uint32_t first;
  uint32_t second;
};

// Return 32 random bits for element `index`: a Weyl sequence through a two-round integer hash, keyed before each round
// so that no stream is a shifted copy of another. Hashing the bare index would be measurably uneven: neighbouring
// indices differ in few bits (tests/unit/test_keys.py rejects it).
constexpr uint32_t kWeylStep = 0x9e3779b9u;

template <typename Unsigned>
ALQ_INLINE Unsigned random_bits(StreamKey key, Unsigned index) {
  Unsigned x = index * kWeylStep + key.first;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x += key.second;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// A uniform number in [0, 1) is the upper 24 random bits times this.
constexpr float kUniformStep = 1.0f / 16777216.0f;

// Return `value` within [low, high]; NaN stays NaN.
template <typename Float>
ALQ_INLINE Float clamp(Float value, Float low, Float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// Stochastic rounding inside the bin [lower, next level): up when a uniform number falls below (r - lower) / gap.
// A coordinate that equals a level is never moved.
template <typename Float>
ALQ_INLINE auto rounds_up(Float normalised, Float lower, Float inverse_gap, Float uniform) {
  return (normalised - lower) * inverse_gap > uniform;
}

// What one coordinate of a decoded bucket adds to the sum.
template <typename Float>
ALQ_INLINE Float dequantise(Float norm, Float level) {
  return norm * level;
}

}  // namespace alq
