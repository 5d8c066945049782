// What buckets need that do not fit the fused kernels: norms, a block a bucket, and rotated copies in device memory.
#pragma once

#include "norms.cuh"

namespace alq {

// A bucket of any length in the tensors of a group, cut at +-limit. `lanes` is shared.
template <typename T>
struct BucketOfTensors {
  const Tensors<T>& tensors;
  uint32_t begin, size;
  double* lanes;
  float limit;

  template <typename Combine, typename F>
  ALQ_DEVICE double total(Combine combine, F f) const {
    auto cursor = tensors.cursor();
    for (uint32_t s = threadIdx.x; s < kSumLanes; s += kThreads) {
      double sum = 0;
      for (uint32_t i = s; i < size; i += kSumLanes)
        sum = combine(sum, f(clamp(tensors.load(begin + i, cursor), -limit, limit)));
      lanes[s] = sum;
    }
    fold(lanes, kSumLanes / 2, combine);
    const double result = lanes[0];
    __syncthreads();
    return result;
  }

  ALQ_DEVICE void clamp_all(float to) { limit = to; }
};

// Write the norm of each bucket, and the magnitude that clipping leaves; a block a bucket.
template <typename T>
__global__ void __launch_bounds__(kThreads) bucket_norms(Group group, Tensors<T> tensors, float* norms, float* limits) {
  __shared__ double lanes[kSumLanes];
  const uint32_t d = group.bucket_size, begin = blockIdx.x * d, left = group.elements - begin, size = left < d ? left : d;
  BucketOfTensors<T> bucket = {tensors, begin, size, lanes, __uint_as_float(kInfinity)};
  const Norm found = norm_of(group, size, bucket, group.reach);
  if (threadIdx.x) return;
  norms[blockIdx.x] = found.norm;
  limits[blockIdx.x] = bucket.limit;
}

// Write what is sent in place of the norms of buckets that are rounded to the nearest; a block a bucket.
template <int B>
__global__ void __launch_bounds__(kThreads) projection_scales(Group group, Tensors<float> tensors, const Tables* tables,
                                                              const float* norms, const float* limits, float* sent) {
  __shared__ double lanes[kSumLanes];
  const uint32_t d = group.bucket_size, begin = blockIdx.x * d, left = group.elements - begin, size = left < d ? left : d;
  BucketOfTensors<float> bucket = {tensors, begin, size, lanes, limits[blockIdx.x]};
  const Quantise q = make_quantise(group, tables->levels, tables->scaled_inverse_gaps, tables->tree, tables->smallest_level,
                                   {0, 0}, 0, 0, B);
  const float scale = projection_scale<B>(q, bucket.total(Add(), Square()), norms[blockIdx.x], bucket);
  if (threadIdx.x == 0) sent[blockIdx.x] = scale;
}

// Where the rotation of a chunk of whole buckets takes place: shared memory or, for buckets too large for it, `large`,
// which holds the whole group.
template <bool fits>
ALQ_DEVICE Coordinates<fits> workplace(float* chunk, float* large, uint32_t begin) {
  return {fits ? chunk : large + begin};
}

// Write the rotated group to `rotated`, float32[elements]; a chunk of whole buckets a block, which fits shared memory, or
// one bucket a block that does not.
template <typename T, bool fits>
__global__ void __launch_bounds__(kThreads, fits ? 3 : 2) rotate_group(Group group, Tensors<T> tensors, uint32_t first_element,
                                                         int chunk_size, float* rotated) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  const auto x = workplace<fits>(chunk, rotated, begin);
  auto cursor = tensors.cursor();
  for (int i = threadIdx.x; i < size; i += kThreads) x[i] = tensors.load(begin + i, cursor);
  __syncthreads();
  rotate<false, true>(x, group.bucket_size, group.rounds, group.signs, first_element + begin, size);
  if (fits)
    for (int i = threadIdx.x; i < size; i += kThreads) rotated[begin + i] = x[i];
}

// Write to `residual` what the gradient and it have lost; `seen`, float32[elements], is what the receiver sees before it
// rotates it back. Chunks as in rotate_group.
template <typename T, bool fits>
__global__ void __launch_bounds__(kThreads, fits ? 3 : 2) keep_lost(Group group, Tensors<T> tensors, uint32_t first_element, int chunk_size,
                                                      float* seen, float* residual) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  const auto x = workplace<fits>(chunk, seen, begin);
  if (fits)
    for (int i = threadIdx.x; i < size; i += kThreads) x[i] = seen[begin + i];
  __syncthreads();
  rotate<true, true>(x, group.bucket_size, group.rounds, group.signs, first_element + begin, size);
  auto cursor = tensors.cursor();
  for (int i = threadIdx.x; i < size; i += kThreads)
    residual[begin + i] = lost(tensors.load(begin + i, cursor), 0.0f + x[i]);
}

}  // namespace alq
