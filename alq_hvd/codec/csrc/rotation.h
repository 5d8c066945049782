// The rotation's geometry, scales and signs, written once for every compiler; alq_hvd/codec/rotation.py specifies it.
#pragma once

#include "quantise.h"

namespace alq {

// A rotated record names its signs in so many bytes before its norms: two words of key, first element, zero.
constexpr int kRotationBytes = 16;

// Added to the index of the random words from one block of a bucket to the next.
constexpr uint32_t kBlockStep = 0x3c6ef372u;

constexpr float kSqrtHalf = 0.70710678f, kSqrtTwo = 1.41421356f;

// A bucket of 2^log2 <= size < 2^(log2 + 1) coordinates has a first block of 2^log2 and, unless that is all of it, a
// last one that overlaps the first.
ALQ_INLINE int block_log2(int64_t size) {
  int log2 = 0;
  while (size >> (log2 + 1)) ++log2;
  return log2;
}

// The exact factor of a block of 2^log2 coordinates, before its additions: 2^-ceil(log2 / 2) on the way there,
// 2^-floor(log2 / 2) on the way back.
ALQ_INLINE float block_scale(int log2, bool back) {
  return 1.0f / static_cast<float>(int64_t{1} << (back ? log2 / 2 : (log2 + 1) / 2));
}

// Return 32 signs: bit `row` is set where coordinate 1024 tile + 32 row + lane of a block changes its sign. `first` is
// the element at which the bucket starts, `turn` counts the blocks of the bucket.
template <typename Unsigned>
ALQ_INLINE Unsigned sign_words(StreamKey key, uint32_t first, int turn, uint32_t tile, Unsigned lane) {
  return random_bits(key, weyl_number(key, lane + (first + turn * kBlockStep + kLanes * tile)));
}

// The stages of distance 1, 2, ... N / 2 between the N numbers, or vectors of numbers, of an array.
template <int N, int distance = 1, typename Float>
ALQ_INLINE void stages_across(Float* v) {
  if constexpr (distance < N) {
    ALQ_UNROLL
    for (int i = 0; i < N; ++i)
      if (!(i & distance)) {
        const Float a = v[i], b = v[i + distance];
        v[i] = a + b;
        v[i + distance] = a - b;
      }
    stages_across<N, 2 * distance>(v);
  }
}

}  // namespace alq
