// The summary of normalised coordinates: histogram, first moments, moments of each bucket.
#pragma once

#include "tensors.cuh"

namespace alq {

struct Bins {
  int octaves, per_octave_log2, weight_exponent;
};

// Add the buckets blockIdx.x, blockIdx.x + gridDim.x, ... to mass and first_moment, float64[2 * side], and write moments
// float64[buckets, 4]: norm, sum of r, squared deviations from the mean, sum of r * r. Dynamic shared: float64[4 * side].
// Norms and clipping limits come from bucket_norms. The order of these float64 sums is not fixed.
template <typename T>
__global__ void __launch_bounds__(kThreads) statistics(Group group, Tensors<T> tensors, const float* norms, const float* limits, Bins bins,
                           double* mass, double* first_moment, double* moments) {
  ALQ_DYNAMIC_SHARED(double, counted);
  __shared__ double lanes[kSumLanes];
  const int log2 = bins.per_octave_log2, side = (bins.octaves << log2) + 1, first = (127 - bins.octaves) << log2;
  const uint32_t d = group.bucket_size, buckets = (group.elements + d - 1) / d;
  for (int i = threadIdx.x; i < 4 * side; i += kThreads) counted[i] = 0;
  __syncthreads();
  for (uint32_t bucket = blockIdx.x; bucket < buckets; bucket += gridDim.x) {
    const uint32_t begin = bucket * d, left = group.elements - begin, size = left < d ? left : d;
    const float norm = norms[bucket], limit = limits[bucket];
    const bool used = norm > 0;
    double weight = 1;
    for (int i = 0; i < bins.weight_exponent; ++i) weight *= norm;
    const auto total = [&](auto f) {
      double sum = 0;
      auto cursor = tensors.cursor();
      for (uint32_t i = threadIdx.x; used && i < size; i += kThreads)
        sum += f(clamp(clamp(tensors.load(begin + i, cursor), -limit, limit) / norm, -1.0f, 1.0f));
      for (int s = threadIdx.x; s < kSumLanes; s += kThreads) lanes[s] = s < kThreads ? sum : 0.0;
      fold(lanes, kThreads / 2, Add());
      const double result = lanes[0];
      __syncthreads();
      return result;
    };
    const double sum = total([&](float r) {
      const int bin = static_cast<int>((__float_as_uint(r) & 0x7fffffffu) >> (23 - log2)) - first + 1;
      const int inside = bin < 0 ? 0 : bin > side - 1 ? side - 1 : bin;
      const int index = r < 0 ? side - 1 - inside : side + inside;
      atomicAdd(&counted[index], weight);
      atomicAdd(&counted[2 * side + index], weight * r);
      return static_cast<double>(r);
    });
    const double squares = total([](float r) { return static_cast<double>(r) * r; });
    const double mean = sum / size;
    const double deviations = total([=](float r) { return (r - mean) * (r - mean); });
    if (threadIdx.x == 0) {
      double* row = moments + 4 * static_cast<uint64_t>(bucket);
      row[0] = norm;
      row[1] = sum;
      row[2] = used ? deviations : 0;
      row[3] = squares;
    }
  }
  for (int i = threadIdx.x; i < 2 * side; i += kThreads) {
    if (counted[i] != 0) atomicAdd(mass + i, counted[i]);
    if (counted[2 * side + i] != 0) atomicAdd(first_moment + i, counted[2 * side + i]);
  }
}

}  // namespace alq
