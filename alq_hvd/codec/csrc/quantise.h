// The arithmetic of one coordinate, written once for every compiler.
//
// The C++ extension and the CUDA kernels include this file; the NumPy codec (codec/reference.py) is its specification.
// Compiled without FMA contraction, all three give the same bytes: only float32 compare, subtract, multiply, divide and
// explicit fused multiply-adds, and integer operations are used, each of which IEEE 754 or C defines to the bit. The
// functions are templates so that the CPU instantiates them with vectors of coordinates and the GPU with single ones.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define ALQ_INLINE __host__ __device__ __forceinline__
#define ALQ_UNROLL _Pragma("unroll")
#else
#define ALQ_INLINE inline __attribute__((always_inline))
#define ALQ_UNROLL _Pragma("GCC unroll 32")
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
constexpr float kLargestNorm = 3.40282347e+38f;

// Two words of key, derived on the host from (seed, step, rank, fusion group, shot).
struct StreamKey {
  uint32_t first;
  uint32_t second;
};

// Element `index` draws from the number index * kWeylStep + key.first. Hashing the bare index would be measurably
// uneven, because neighbouring indices differ in few bits (tests/unit/test_keys.py rejects it).
constexpr uint32_t kWeylStep = 0x9e3779b9u;

template <typename Unsigned>
ALQ_INLINE Unsigned weyl_number(StreamKey key, Unsigned index) {
  return index * kWeylStep + key.first;
}

constexpr uint32_t kLastFactor = 0x846ca68bu;  // of the hash

// Return 32 random bits: a two-round integer hash, keyed again before the second round so that no stream is a shifted
// copy of another. `second` is kLastFactor times the second word of the key: what is multiplied once need not be twice.
template <typename Unsigned>
ALQ_INLINE Unsigned hashed(Unsigned weyl, uint32_t second) {
  weyl ^= weyl >> 16;
  weyl *= 0x7feb352du;
  weyl ^= weyl >> 15;
  weyl = weyl * kLastFactor + second;
  weyl ^= weyl >> 16;
  return weyl;
}

template <typename Unsigned>
ALQ_INLINE Unsigned random_bits(StreamKey key, Unsigned weyl) {
  return hashed(weyl, key.second * kLastFactor);
}

// Return the random number of an element, one of kDraws values that are kDrawStep apart: what decides whether it is rounded
// up. `second` as in `hashed`.
template <typename Unsigned>
ALQ_INLINE Unsigned draw_bits(Unsigned weyl, uint32_t second) {
  return hashed(weyl, second) & 0xffffff00u;
}

// Return value / norm, correctly rounded, without dividing: the product with the rounded reciprocal, corrected once by
// its exact remainder. `fused(a, b, c)` must be a * b + c rounded once. Allowed only where the remainder cannot
// underflow, see can_use_reciprocal; tests/native/check_divide.cpp tries every divisor on its hardest dividends.
template <typename Float, typename Fused>
ALQ_INLINE Float divide(Float value, Float norm, Float reciprocal, Fused fused) {
  const Float quotient = value * reciprocal;
  return fused(fused(-quotient, norm, value), reciprocal, quotient);
}

// Whether `divide` may replace the division by `norm` under a table whose nonzero levels have magnitudes of at least
// `smallest_level`. The quotient is exact down to 2^-64 then; a smaller one keeps its sign and lies so close to zero
// that neither its bin nor its rounding can depend on its last bits.
ALQ_INLINE bool can_use_reciprocal(float norm, float smallest_level) {
  constexpr float low = 3.6379788e-12f, high = 1.2676506e30f;  // 2^-38, 2^100
  return norm >= low && norm <= high && smallest_level >= low;
}

// Stochastic rounding inside the bin [lower, next level): up when a uniform number falls below (r - lower) / gap. Both
// sides are multiplied by the number of values that a draw has, 2^24 for ranks that draw independently and never more:
// `scaled_inverse_gap` is that number / gap, `draw` a random integer below it as a float. A coordinate that equals a level is never moved, and one beyond the ends of the table is sent as the end:
// below, the difference is negative; above, the inverse gap of the last level is zero.
template <typename Float>
ALQ_INLINE auto rounds_up(Float normalised, Float lower, Float scaled_inverse_gap, Float draw) {
  return (normalised - lower) * scaled_inverse_gap > draw;
}
constexpr float kDraws = 16777216.0f;
constexpr float kMeanDraw = 8388607.5f;  // of the integers below kDraws
constexpr float kDrawStep = 256.0f;

// Clamp for clipping: `value` within [low, high]; NaN stays NaN.
template <typename Float>
ALQ_INLINE Float clamp(Float value, Float low, Float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

// What one coordinate of a decoded bucket adds to the sum.
template <typename Float>
ALQ_INLINE Float dequantise(Float norm, Float level) {
  return norm * level;
}

// What a record keeps back of a coordinate, for error feedback to add to the next one. Where either is not finite, as in
// a bucket with NaN, that is nothing: it would come back at every step.
ALQ_INLINE float lost(float value, float decoded) {
  const float rest = value - decoded;
  return rest - rest == 0 ? rest : 0;
}

}  // namespace alq
