// Rotated gradients to records: encode.cuh, with the chunk rotated in shared memory between the only reading and the norms.
#pragma once

#include "encode.cuh"

namespace alq {

// Encode a group whose buckets are multiples of kTile, or powers of two from 64 on; one chunk a block.
template <typename T, int B, bool nearest>
__global__ void __launch_bounds__(kThreads, 3) encode_rotated(Group group, Tensors<T> tensors, const Tables* tables,
                                                              StreamKey key, uint32_t first_element, int chunk_size,
                                                              uint32_t codes_offset, uint32_t* record, float* residual) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ Shared shared;
  constexpr int rounds = nearest ? 2 : 1;
  const Coordinates<true> chunk = {memory};
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size, d = group.bucket_size;
  const OuterSigns outer = {chunk, d, size, group.signs, first_element + begin};
  auto cursor = tensors.cursor();
#pragma unroll 1
  for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
    float rows[kRows];
    load_tile(tensors, cursor, begin + start, size - start < kTile ? size - start : kTile, rows);
    outer.enter(start, rows);
  }
  __syncthreads();
  rotate<false, false>(chunk, d, rounds, group.signs, first_element + begin, size);
  encode_chunk<B, nearest>(group, tables, key, first_element, begin, size, chunk, shared, codes_offset, record,
                           [&](int i, float decoded) {
                             if (residual) chunk[i] = 0.0f + decoded;
                           });
  if (!residual) return;
  __syncthreads();
  rotate<true, false>(chunk, d, rounds, group.signs, first_element + begin, size);
  cursor = tensors.cursor();
#pragma unroll 1
  for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
    outer.change(start, kSqrtTwo, &chunk[start + threadIdx.x % kLanes]);
#pragma unroll 1
    for (int i = start + threadIdx.x % kLanes; i < start + kTile && i < size; i += kLanes)
      residual[begin + i] = lost(tensors.load(begin + i, cursor), 0.0f + chunk[i]);
  }
}

}  // namespace alq
