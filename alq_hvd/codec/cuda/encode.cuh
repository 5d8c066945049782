// Gradients to records. A block holds a chunk of the group in shared memory, so every element is read once: it takes the
// norms of the chunk's buckets, then each warp quantises and packs whole tiles, a lane of the tile a thread.
#pragma once

#include "device.cuh"

namespace alq {

// What one thread needs to quantise.
struct Quantise {
  const float *levels, *scaled_inverse_gaps, *tree;  // shared
  float smallest_level;
  StreamKey key;
  uint32_t first_element;
};

template <int B>
ALQ_DEVICE uint32_t code_of(const Quantise& q, float value, float norm, uint32_t element) {
  if (!(norm > 0)) return 0;  // zero or NaN: any code decodes right
  const float normalised = can_use_reciprocal(norm, q.smallest_level)
                               ? divide(value, norm, 1.0f / norm, [](float a, float b, float c) { return fused(a, b, c); })
                               : value / norm;
  uint32_t bin = 0;
#pragma unroll
  for (int depth = 0; depth < B; ++depth) bin = 2 * bin + (normalised >= q.tree[(1u << depth) + bin]);
  const uint32_t draw = random_bits(q.key, weyl_number(q.key, q.first_element + element)) >> 8;
  return bin + rounds_up(normalised, q.levels[bin], q.scaled_inverse_gaps[bin], static_cast<float>(draw));
}

// Pack a tile of `rest` elements, at most kTile, from `element` on: this thread's lane of it, all 32 rows, where rows past
// the end hold zeros and only the words that the record has room for are written. Return the sum of those words. `value(i)` and `norm(i)` give element i of the tile; `keep(i, decoded)` takes what the receiver will see.
template <int B, typename Value, typename Norm, typename Keep>
ALQ_DEVICE uint32_t pack_tile(const Quantise& q, uint32_t element, int rest, Value value, Norm norm, Keep keep,
                              uint32_t* words) {
  const int lane = threadIdx.x % kLanes, needed = ((rest + kLanes - 1) / kLanes * B + 31) / 32;
  uint32_t word = 0, sum = 0;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int i = row * kLanes + lane, shift = row * B % 32, index = row * B / 32;
    uint32_t code = 0;
    if (i < rest) {
      code = code_of<B>(q, value(i), norm(i), element + i);
      keep(i, dequantise(norm(i), q.levels[code]));
    }
    word |= code << shift;
    if (shift + B >= 32) {
      if (index < needed) {
        words[index * kLanes + lane] = word;
        sum += word;
      }
      word = shift + B > 32 ? code >> (32 - shift) : 0;
    }
  }
  return sum;
}

// Where the parts of a record lie, in 32-bit words, and the header's first seven.
struct RecordPlan {
  uint32_t codes_offset, payload_words, record_words;
  uint32_t header[7];
};

// Write the header with checksum zero, and the zeros between norms, codes and the record's end. One block.
__global__ void begin_record(RecordPlan plan, uint32_t buckets, uint32_t* record) {
  for (uint32_t i = threadIdx.x; i < 8; i += kThreads) record[i] = i < 7 ? plan.header[i] : 0;
  for (uint32_t i = 8 + buckets + threadIdx.x; i < plan.codes_offset; i += kThreads) record[i] = 0;
  for (uint32_t i = plan.payload_words + threadIdx.x; i < plan.record_words; i += kThreads) record[i] = 0;
}

// Sum f(x) over each bucket of the `rows` rows of kSumLanes values at `chunk` (shared) in the order of quantise.h; bucket j of
// a short row ends in lanes[j * bucket_size].
template <typename Combine, typename F>
ALQ_DEVICE void sum_buckets(const float* chunk, int rows, int bucket_size, double* lanes, Combine combine, F f) {
  for (int s = threadIdx.x; s < kSumLanes; s += kThreads) {
    double total = f(chunk[s]);
    for (int row = 1; row < rows; ++row) total = combine(total, f(chunk[row * kSumLanes + s]));
    lanes[s] = total;
  }
  fold(lanes, (bucket_size < kSumLanes ? bucket_size : kSumLanes) / 2, combine);
}

// Clip the chunk if asked and take the norms of its buckets; `chunk` is filled up with zeros to whole rows.
ALQ_DEVICE void chunk_norms(const Group& group, int size, float* chunk, double* lanes, double* sums, float* norms) {
  const int d = group.bucket_size, rows = d < kSumLanes ? 1 : d / kSumLanes, span = rows * kSumLanes;
  const int buckets = d < kSumLanes ? kSumLanes / d : 1;
  for (int start = 0, first = 0; start < size; start += span, first += buckets) {
    float* part = chunk + start;
    if (group.clip > 0) {
      sum_buckets(part, rows, d, lanes, Add(), [](float x) { return static_cast<double>(x); });
      for (int j = threadIdx.x; j < buckets; j += kThreads) sums[j] = lanes[j * d];
      __syncthreads();
      sum_buckets(part, rows, d, lanes, Add(), [](float x) { return static_cast<double>(x) * x; });
      for (int j = threadIdx.x; j < buckets; j += kThreads) {
        const int left = size - start - j * d;
        if (left > 0) norms[first + j] = clip_limit(sums[j], lanes[j * d], left < d ? left : d, group.clip);
      }
      __syncthreads();
      for (int i = threadIdx.x; i < span && start + i < size; i += kThreads) {
        const float limit = norms[first + i / d];
        part[i] = clamp(part[i], -limit, limit);
      }
      __syncthreads();
    }
    if (group.maximum_norm)
      sum_buckets(part, rows, d, lanes, Larger(), [](float x) { return magnitude_bits(x); });
    else
      sum_buckets(part, rows, d, lanes, Add(), [](float x) { return static_cast<double>(x) * x; });
    for (int j = threadIdx.x; j < buckets; j += kThreads)
      if (start + j * d < size) norms[first + j] = finished_norm(lanes[j * d], group.maximum_norm);
    __syncthreads();
  }
}

// Everything a block shares besides its chunk.
struct Shared {
  double lanes[kSumLanes], sums[kSumLanes / 64];
  float norms[kMostNorms];
  float levels[256], scaled_inverse_gaps[256], tree[256];
  uint32_t check;
};

// Encode the chunk of `size` elements from `begin` on, which lies in shared memory, and write the new residual if any.
template <int B>
ALQ_DEVICE void encode_chunk(const Group& group, const Tables* tables, StreamKey key, uint32_t first_element,
                             uint32_t begin, int size, float* chunk, Shared& shared, uint32_t codes_offset,
                             uint32_t* record, float* residual) {
  copy_table(tables->levels, shared.levels, 1 << B);
  copy_table(tables->scaled_inverse_gaps, shared.scaled_inverse_gaps, 1 << B);
  copy_table(tables->tree, shared.tree, 1 << B);
  if (threadIdx.x == 0) shared.check = 0;
  const int d = group.bucket_size, whole = (size + kSumLanes - 1) / kSumLanes * kSumLanes;
  const int span = d > kSumLanes ? (size + d - 1) / d * d : whole;
  for (int i = size + threadIdx.x; i < span; i += kThreads) chunk[i] = 0;
  __syncthreads();
  chunk_norms(group, size, chunk, shared.lanes, shared.sums, shared.norms);

  uint32_t check = 0;
  for (int j = threadIdx.x; j * d < size; j += kThreads) {
    const uint32_t bits = __float_as_uint(shared.norms[j]);
    record[8 + begin / d + j] = bits;
    check += bits;
  }
  const Quantise q = {shared.levels, shared.scaled_inverse_gaps, shared.tree, tables->smallest_level, key, first_element};
  for (int tile = threadIdx.x / kLanes; tile * kTile < size; tile += kWarps) {
    const int rest = size - tile * kTile < kTile ? size - tile * kTile : kTile;
    const float* values = chunk + tile * kTile;
    const int first = tile * kTile;
    check += pack_tile<B>(
        q, begin + first, rest, [&](int i) { return values[i]; }, [&](int i) { return shared.norms[(first + i) / d]; },
        [&](int i, float decoded) {
          if (residual) residual[begin + first + i] = values[i] - decoded;
        },
        record + codes_offset + (begin + first) / kTile * (B * kLanes));
  }
  add_from_warp(&shared.check, check);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(record + 7, shared.check);
}

// Encode a group whose buckets are multiples of kTile, or powers of two from 64 on; one chunk a block.
template <typename T, int B>
__global__ void __launch_bounds__(kThreads) encode(Group group, Tensors<T> tensors, const Tables* tables, StreamKey key, uint32_t first_element,
                       int chunk_size, uint32_t codes_offset, uint32_t* record, float* residual) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  __shared__ Shared shared;
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  uint32_t tensor = tensors.find(begin + threadIdx.x);
  for (int i = threadIdx.x; i < size; i += kThreads) {
    tensor = tensors.find(begin + i, tensor);
    chunk[i] = tensors.load(begin + i, tensor);
  }
  encode_chunk<B>(group, tables, key, first_element, begin, size, chunk, shared, codes_offset, record, residual);
}

// For buckets of any other size: write the norm of each bucket, and what clipping leaves; a block a bucket.
template <typename T>
__global__ void __launch_bounds__(kThreads) bucket_norms(Group group, Tensors<T> tensors, float* norms, float* limits) {
  __shared__ double lanes[kSumLanes];
  const uint32_t d = group.bucket_size, begin = blockIdx.x * d, left = group.elements - begin, size = left < d ? left : d;
  float limit = __uint_as_float(0x7f800000u);
  const auto total = [&](auto combine, auto f) {
    for (uint32_t s = threadIdx.x; s < kSumLanes; s += kThreads) {
      double sum = 0;
      uint32_t tensor = tensors.find(begin + s);
      for (uint32_t i = s; i < size; i += kSumLanes) {
        tensor = tensors.find(begin + i, tensor);
        sum = combine(sum, f(clamp(tensors.load(begin + i, tensor), -limit, limit)));
      }
      lanes[s] = sum;
    }
    fold(lanes, kSumLanes / 2, combine);
    const double result = lanes[0];
    __syncthreads();
    return result;
  };
  if (group.clip > 0) {
    const double sum = total(Add(), [](float x) { return static_cast<double>(x); });
    const double squares = total(Add(), [](float x) { return static_cast<double>(x) * x; });
    limit = clip_limit(sum, squares, size, group.clip);
  }
  const double result = group.maximum_norm ? total(Larger(), [](float x) { return magnitude_bits(x); })
                                           : total(Add(), [](float x) { return static_cast<double>(x) * x; });
  if (threadIdx.x == 0) {
    norms[blockIdx.x] = finished_norm(result, group.maximum_norm);
    limits[blockIdx.x] = limit;
  }
}

// Encode a group whose norms are known: a warp a tile; the second reading of the gradient.
template <typename T, int B>
__global__ void __launch_bounds__(kThreads) encode_with_norms(Group group, Tensors<T> tensors, const Tables* tables, StreamKey key,
                                  uint32_t first_element, const float* norms, const float* limits, uint32_t codes_offset,
                                  uint32_t* record, float* residual) {
  __shared__ float levels[256], gaps[256], tree[256];
  __shared__ uint32_t block_check;
  copy_table(tables->levels, levels, 1 << B);
  copy_table(tables->scaled_inverse_gaps, gaps, 1 << B);
  copy_table(tables->tree, tree, 1 << B);
  if (threadIdx.x == 0) block_check = 0;
  __syncthreads();
  const Quantise q = {levels, gaps, tree, tables->smallest_level, key, first_element};
  const uint32_t d = group.bucket_size, begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  uint32_t check = 0;
  if (begin < group.elements) {
    const int rest = group.elements - begin < kTile ? group.elements - begin : kTile;
    uint32_t tensor = tensors.find(begin);
    const auto value = [&](int i) {
      tensor = tensors.find(begin + i, tensor);
      const float limit = limits[(begin + i) / d];
      return clamp(tensors.load(begin + i, tensor), -limit, limit);
    };
    check = pack_tile<B>(
        q, begin, rest, value, [&](int i) { return norms[(begin + i) / d]; },
        [&](int i, float decoded) {
          if (residual) residual[begin + i] = value(i) - decoded;
        },
        record + codes_offset + begin / kTile * (B * kLanes));
    for (uint32_t j = (begin + d - 1) / d + threadIdx.x % kLanes; j * d < begin + rest; j += kLanes) {
      const uint32_t bits = __float_as_uint(norms[j]);
      record[8 + j] = bits;
      check += bits;
    }
  }
  add_from_warp(&block_check, check);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(record + 7, block_check);
}

}  // namespace alq
