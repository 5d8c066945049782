// What the kernels stand on: element types, tensors of a fusion group, sums over a block. No CUDA header is needed.
#pragma once

#include "quantise.h"

#if defined(ALQ_EMULATED)
#include "emulate_cuda.h"  // tests/native: runs a block's threads one after another on the CPU
#else
using uint16_t = unsigned short;
#define ALQ_DEVICE __device__ __forceinline__
#define ALQ_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
namespace alq {
ALQ_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// Add what the 32 threads of a warp bring, all of which must call it.
ALQ_DEVICE void add_from_warp(uint32_t* to, uint32_t value) {
  const uint32_t sum = __reduce_add_sync(0xffffffffu, value);
  if (threadIdx.x % 32 == 0) atomicAdd(to, sum);
}
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
  uint32_t reserved;
  double clip;            // standard deviations; 0 does not clip
};

// Level tables in device memory: float32[4][256], levels padded with infinity, scaled inverse gaps padded with zero, the
// search tree (kernels.h), levels padded with the last one; then the smallest magnitude of a level that is not zero.
struct Tables {
  float levels[256], scaled_inverse_gaps[256], tree[256], decoded[256];
  float smallest_level;
};

// Return the tensor that holds `element`: the first k with element < ends[k].
ALQ_DEVICE uint32_t locate(const uint32_t* ends, uint32_t count, uint32_t element) {
  uint32_t low = 0;
  for (uint32_t high = count - 1; low < high;) {
    const uint32_t middle = (low + high) / 2;
    if (element < ends[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The tensors of a fusion group, one after another: element e lies in the first tensor k with e < ends[k]. `residual`,
// float32[elements] or null, is added to the gradient (error feedback).
template <typename T>
struct Tensors {
  const T* const* data;
  const uint32_t* ends;
  const float* residual;
  uint32_t count, reserved;

  ALQ_DEVICE uint32_t start(uint32_t k) const { return k ? ends[k - 1] : 0; }

  ALQ_DEVICE uint32_t find(uint32_t element) const { return locate(ends, count, element); }

  // Return the tensor that holds `element`, which is tensor k or one soon after it.
  ALQ_DEVICE uint32_t find(uint32_t element, uint32_t k) const {
    while (element >= ends[k]) ++k;
    return k;
  }

  ALQ_DEVICE float load(uint32_t element, uint32_t k) const {
    const float value = to_float(data[k][element - start(k)]);
    return residual ? value + residual[element] : value;
  }
};

struct Add {
  ALQ_DEVICE double operator()(double a, double b) const { return a + b; }
};
struct Larger {
  ALQ_DEVICE double operator()(double a, double b) const { return a > b ? a : b; }
};

// Fold each run of 2 * half of the kSumLanes numbers in `lanes` (shared) into its first; every thread must call it.
template <typename Combine>
ALQ_DEVICE void fold(double* lanes, int half, Combine combine) {
  for (__syncthreads(); half > 0; half /= 2, __syncthreads())
    for (int s = threadIdx.x; s < kSumLanes; s += kThreads)
      if ((s & (2 * half - 1)) < half) lanes[s] = combine(lanes[s], lanes[s + half]);
}

ALQ_DEVICE double magnitude_bits(float value) { return static_cast<double>(__float_as_uint(value) & 0x7fffffffu); }

// Return the norm as it is sent, from the sum of squares or the bits of the largest magnitude.
ALQ_DEVICE float finished_norm(double total, bool maximum) {
  const float norm = maximum ? __uint_as_float(static_cast<uint32_t>(total)) : static_cast<float>(sqrt(total));
  if (!(norm <= kLargestNorm)) return __uint_as_float(kNan);
  return norm < kSmallestNorm ? 0.0f : norm;
}

// Return the largest magnitude that clipping leaves, from the sums of a bucket.
ALQ_DEVICE float clip_limit(double sum, double squares, double count, double clip) {
  const double mean = sum / count, variance = squares / count - mean * mean;
  return variance > 0 ? static_cast<float>(clip * sqrt(variance)) : __uint_as_float(0x7f800000u);
}

// Copy `count` words of the tables into shared memory.
ALQ_DEVICE void copy_table(const float* from, float* to, int count) {
  for (int i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
}

}  // namespace alq
