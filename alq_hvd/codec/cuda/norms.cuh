// Norms of buckets. Sums are taken in the order of quantise.h: element i goes to sum i % 1024, which are folded in halves.
#pragma once

#include "quantise.cuh"
#include "rotate.cuh"

namespace alq {

// Return the N numbers f(0), ... f(N - 1), or every `step`th from `q` on, folded in halves.
template <int N, int step = 1, typename Combine, typename F>
ALQ_DEVICE double fold_rows(Combine combine, F f, int q = 0) {
  if constexpr (step == N) {
    return f(q);
  } else if constexpr (N / step > 8) {  // loops keep the code small
    double total = 0;
#pragma unroll 1
    for (int k = 0; k < 2; ++k) {
      const double part = fold_rows<N, 2 * step>(combine, f, q + k * step);
      total = k ? combine(total, part) : part;
    }
    return total;
  } else {
    return combine(fold_rows<N, 2 * step>(combine, f, q), fold_rows<N, 2 * step>(combine, f, q + step));
  }
}

// Fold what the 32 threads of a warp bring; all of them get the result.
template <typename Combine>
ALQ_DEVICE double fold_warp(double value, Combine combine) {
  for (int half = kLanes / 2; half > 0; half /= 2) value = combine(value, exchange(value, half));
  return value;
}

// Coordinates of a bucket of at most kTile, a power of two, that a warp works on: `rows` of them a thread.
template <bool gaps>
struct BucketOfWarp {
  float* x;  // of this thread's lane
  int rows;

  template <typename Combine, typename F>
  ALQ_DEVICE double total(Combine combine, F f) const {  // [rare]
    const auto each = [&](int row) { return row < rows ? f(x[row * Coordinates<gaps>::kRowStep]) : 0.0; };
    return fold_warp(fold_rows<kRows>(combine, each), combine);
  }

  ALQ_DEVICE void clamp_all(float limit) {  // [rare]
    for (int row = 0; row < rows; ++row) {
      float& value = x[row * Coordinates<gaps>::kRowStep];
      value = clamp(value, -limit, limit);
    }
  }
};

// Coordinates of a bucket of `tiles` times kTile that all threads of a block work on. `lanes` is shared, one a thread.
template <bool gaps>
struct BucketOfBlock {
  Coordinates<gaps> part;
  int tiles;
  double* lanes;

  template <typename Combine, typename F>
  ALQ_DEVICE double total(Combine combine, F f) const {  // [rare]
    constexpr int kStep = Coordinates<gaps>::kRowStep, kPart = kThreads / kLanes * kStep;
    double sums[kSumLanes / kThreads] = {};
    const float* x = &part[threadIdx.x];
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
      for (int k = 0; k < kSumLanes / kThreads; ++k)
        sums[k] = combine(sums[k], f(x[tile * kRows * kStep + k * kPart]));
    __syncthreads();  // the warps have read what they folded before
    lanes[threadIdx.x] = combine(combine(sums[0], sums[2]), combine(sums[1], sums[3]));
    __syncthreads();
    const auto each = [&](int q) { return lanes[q * kLanes + threadIdx.x % kLanes]; };
    return fold_warp(fold_rows<kWarps>(combine, each), combine);
  }

  ALQ_DEVICE void clamp_all(float limit) {  // [rare]
    for (int i = threadIdx.x; i < tiles * kTile; i += kThreads) part[i] = clamp(part[i], -limit, limit);
  }
};

// A bucket's norm, and the sum it was made of.
struct Norm {
  float norm;
  double total;
};

// Clip a bucket of `count` coordinates if asked, and take its norm; `reach` as Group::reach.
template <typename Bucket>
ALQ_DEVICE Norm norm_of(const Group& group, double count, Bucket& bucket, double reach) {
  double sum = 0, total = 0;
#pragma unroll 1
  for (int step = group.clip > 0 ? 0 : 2; step < 3; ++step) {
    const bool largest = step == 2 && group.maximum_norm;
    const Measure measure = {step == 0 ? Measure::kValues : largest ? Measure::kMagnitudes : Measure::kSquares};
    total = bucket.total(measure, measure);
    if (step == 0) sum = total;
    if (step == 1) bucket.clamp_all(clip_limit(sum, total, count, group.clip));
  }
  return {finished_norm(group, total, count, reach), total};
}

// Return the scale that gives a bucket rounded to the nearest the projection on itself that it had, |v|^2 / <v, levels>; the
// norm where that is not positive and finite. B and `bits` as of code_of.
template <int B, typename Bucket>
ALQ_DEVICE float projection_scale(const Quantise& q, double squares, float norm, Bucket& bucket, int bits = B) {
  if (!(norm > 0)) return norm;
  const Unit unit = make_unit(norm, norm, q.smallest_level);
  const double products = bucket.total(
      Add(), [&](float x) { return static_cast<double>(x) * q.levels[code_of<B>(q, x, unit, kDraws / 2, bits)]; });
  const float scale = static_cast<float>(squares / products);
  return scale >= kSmallestNorm && scale <= kLargestNorm ? scale : norm;
}

}  // namespace alq
