// Rotated gradients to records: encode.cuh, with the chunk rotated in shared memory between the only reading and the norms.
#pragma once

#include "encode.cuh"
#include "rotate_held.cuh"

namespace alq {

// Load a chunk of any size, as it is rotated.
template <typename T>
ALQ_DEVICE void enter_chunk(const Tensors<T>& tensors, const OuterSigns& outer, uint32_t begin, int size) {  // [rare]
  auto cursor = tensors.cursor();
#pragma unroll 1
  for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
    float rows[kRows];
    if (load_whole(tensors, cursor, begin + start, size - start, rows)) {
      outer.enter(start, rows);
    } else {
#pragma unroll 1
      for (int i = start + threadIdx.x % kLanes; i < start + kTile && i < size; i += kLanes)
        outer.chunk[i] = tensors.load(begin + i, cursor);
      outer.change(start, kSqrtHalf, &outer.chunk[start + threadIdx.x % kLanes]);
    }
  }
  __syncthreads();
}

// Write to `residual` what the gradient and it have lost, once the chunk holds what its receiver sees, rotated back but for
// the outer signs.
template <typename T>
ALQ_DEVICE void keep_rotated(const Tensors<T>& tensors, const OuterSigns& outer, uint32_t begin, int size, float* residual) {  // [rare]
  auto cursor = tensors.cursor();
#pragma unroll 1
  for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
    outer.change(start, kSqrtTwo, &outer.chunk[start + threadIdx.x % kLanes]);
#pragma unroll 1
    for (int i = start + threadIdx.x % kLanes; i < start + kTile && i < size; i += kLanes)
      residual[begin + i] = lost(tensors.load(begin + i, cursor), 0.0f + outer.chunk[i]);
  }
}

// Load this thread's coordinates of a whole chunk, what was lost before among them, as rotate_held takes them; `memory` holds the
// chunk.
template <typename T>
ALQ_DEVICE void load_to_rotate(const Tensors<T>& tensors, uint32_t begin, float* memory, float* held) {
  auto cursor = tensors.cursor();
  const int tile = threadIdx.x / kLanes * kTile;
  if (const T* whole = cursor.chunk_at(begin, kHeldChunk)) {
    load_fours(whole + tile, held);
  } else {
    load_crossing(cursor, begin, memory);  // [rare]
    load_fours(memory + tile, held);       // [rare]
    __syncthreads();                       // [rare] the memory is needed again
  }
  if (!tensors.residual) return;
  float before[kHeld];                                  // [feedback]
  load_fours(tensors.residual + begin + tile, before);  // [feedback]
#pragma unroll
  for (int n = 0; n < kHeld; ++n) held[n] += before[n];  // [feedback]
}

// Write to `residual` what the gradient and it have lost, once encode_held has left codes in the memory of the chunk. What the
// receiver sees is rotated back first.
template <typename T>
ALQ_DEVICE void keep_lost_rotated(const Group& group, const Tensors<T>& tensors, uint32_t first, uint32_t begin, float* memory,
                                  float* residual) {  // [feedback]
  __shared__ BackSigns signs;
  const HeldShared& shared = *reinterpret_cast<const HeldShared*>(memory);
  const float factor = scale_back(group);
  float held[kHeld];
  each_decoded(shared, [&](int n, float decoded) { held[n] = (0.0f + decoded) * factor; });
  __syncthreads();
  float* const own = at(memory, own_place(threadIdx.x));
#pragma unroll
  for (int n = 0; n < kHeld; ++n) own[n * kThreads] = held[n];
  make_signs(group, group.signs, first, signs);
  __syncthreads();
  transform_chunk(group.tiles_log2, group.rounds, factor, signs.second, memory, held);
  __syncthreads();
  auto cursor = tensors.cursor();
  const T* whole = cursor.chunk_at(begin, kHeldChunk);
  if (!whole) load_crossing(cursor, begin, memory);
  undo_first_turn(signs, [&](int n, float sign) {
    const int i = n * kThreads + threadIdx.x;
    const float given = whole ? to_float(whole[i]) : memory[i];
    residual[begin + i] = lost(given + residual[begin + i], 0.0f + held[n] * sign);
  });
}

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
  const Target to = {key, first_element, begin, codes_offset, record};
  const bool keeps = residual != nullptr;  // [rare]
  if (can_hold(group, size)) {
    float held[kHeld];
    load_to_rotate(tensors, begin, memory, held);
    rotate_held<rounds>(group, held, memory, first_element + begin);
    if (encode_held<B, nearest>(group, tables, to, held, *reinterpret_cast<HeldShared*>(memory), nullptr)) {
      if (keeps) keep_lost_rotated(group, tensors, first_element + begin, begin, memory, residual);  // [feedback]
      return;
    }
    put_back(held, chunk);  // [rare]
  } else {
    enter_chunk(tensors, outer, begin, size);  // [rare]
    rotate<false, false>(chunk, d, rounds, group.signs, first_element + begin, size);  // [rare]
  }
  const auto keep = [&](int i, float decoded) {
    if (keeps) chunk[i] = 0.0f + decoded;
  };
  encode_chunk<B, nearest>(group, tables, to, size, chunk, shared, keep);  // [rare]
  if (!keeps) return;
  __syncthreads();
  rotate<true, false>(chunk, d, rounds, group.signs, first_element + begin, size);  // [rare]
  keep_rotated(tensors, outer, begin, size, residual);  // [rare]
}

}  // namespace alq
