// The rotation of whole chunks that the threads of a block hold (held.cuh), for buckets of 1024, 2048, 4096 or 8192.
//
// Stages are done in registers, in three arrangements: a thread has a row of 32 neighbours of its warp's tile (distances 1 to
// 16), then four neighbours in each of eight rows (32 to 128), then the coordinates that held.cuh gives it (256 and on). In
// between they lie in shared memory, column c of row r at c ^ 4 (r % 8): four neighbours stay together, and the 32 accesses of a
// warp, or the 8 of a quarter of it that are 16 bytes wide, meet 32 different banks in every arrangement.
#pragma once

#include "held.cuh"

namespace alq {

struct alignas(16) Four {
  float a, b, c, d;
};

constexpr uint32_t kRowBytes = kLanes * sizeof(float), kTileBytes = kTile * sizeof(float), kUnitBytes = sizeof(Four);

// Places are bytes from the start of the chunk's memory: where four neighbours lie is then one exclusive or away, the rest
// constant.
ALQ_DEVICE float* at(float* memory, uint32_t bytes) {
  return reinterpret_cast<float*>(reinterpret_cast<char*>(memory) + bytes);
}

// Change the signs of a tile's column, or of a row where `words` are those of its columns.
ALQ_DEVICE float with_sign(float value, uint32_t word, int row) {
  return __uint_as_float(__float_as_uint(value) ^ (word << (kRows - 1 - row) & 0x80000000u));
}

ALQ_DEVICE void load_four(const float* from, float* to) {
  const Four four = *reinterpret_cast<const Four*>(from);
  to[0] = four.a;
  to[1] = four.b;
  to[2] = four.c;
  to[3] = four.d;
}

ALQ_DEVICE void store_four(const float* from, float* to) {
  *reinterpret_cast<Four*>(to) = {from[0], from[1], from[2], from[3]};
}

// Multiply this thread's row of a tile by `scale`, and transform it by distances up to 16.
ALQ_DEVICE void transform_row(float* memory, uint32_t thread, float scale) {
  const uint32_t first = thread * kRowBytes + thread % 8 * kUnitBytes;
  float v[kLanes];
#pragma unroll
  for (int unit = 0; unit < kLanes / 4; ++unit) load_four(at(memory, first ^ unit * kUnitBytes), v + 4 * unit);
#pragma unroll
  for (int column = 0; column < kLanes; ++column) v[column] *= scale;
  stages_across<kLanes>(v);
#pragma unroll
  for (int unit = 0; unit < kLanes / 4; ++unit) store_four(v + 4 * unit, at(memory, first ^ unit * kUnitBytes));
}

// Transform four columns of eight rows, by distances from 32 to 128.
ALQ_DEVICE void transform_rows(float* memory, uint32_t thread) {
  const uint32_t first = thread / 8 * 8 * kRowBytes + thread % 8 * kUnitBytes;
  float v[kLanes];
#pragma unroll
  for (int row = 0; row < 8; ++row) load_four(at(memory, (first ^ row * kUnitBytes) + row * kRowBytes), v + 4 * row);
  stages_across<kLanes, 4>(v);
#pragma unroll
  for (int row = 0; row < 8; ++row) store_four(v + 4 * row, at(memory, (first ^ row * kUnitBytes) + row * kRowBytes));
}

// Transform what the thread holds by distances of 256 and on, in buckets of `tiles` tiles.
template <int tiles>
ALQ_DEVICE void transform_held(float* held) {
  constexpr int kOfBucket = tiles * kHeldRows;
#pragma unroll
  for (int n = 0; n < kHeld; n += kOfBucket) stages_across<kOfBucket>(held + n);
}

// The same for buckets of 2^log2 tiles.
ALQ_DEVICE void transform_held(int log2, float* held) {
  if (log2 == 3)
    transform_held<8>(held);
  else if (log2 == 2)
    transform_held<4>(held);  // [rare]
  else if (log2 == 1)
    transform_held<2>(held);  // [rare]
  else
    transform_held<1>(held);  // [rare]
}

// Return where the first number lies that held.cuh gives this thread.
ALQ_DEVICE uint32_t own_place(uint32_t thread) {
  const uint32_t lane = thread % kLanes, warp = thread / kLanes;
  return warp * kRowBytes + (lane * static_cast<uint32_t>(sizeof(float)) ^ warp * kUnitBytes);
}

// Put what the thread holds where the next round finds it, with the signs of its turn.
ALQ_DEVICE void return_held(const float* held, float* memory, int thread, const uint32_t (&words)[kHeldTiles][kLanes]) {
  const int lane = thread % kLanes, warp = thread / kLanes;
  float* const own = at(memory, own_place(thread));
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const uint32_t word = words[tile][lane] >> warp;  // row `warp` first
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      const int n = tile * kHeldRows + k;
      own[n * kThreads] = with_sign(held[n], word, k * kWarps);
    }
  }
  __syncthreads();
}

// Return whether four elements at a time can be read from `from`.
template <typename T>
ALQ_DEVICE bool aligned_for_four(const T* from) {
  return reinterpret_cast<uint64_t>(from) % (4 * sizeof(T)) == 0;
}

// Load four neighbours.
template <typename T>
ALQ_DEVICE void load_neighbours(const T* from, float* to) {
#pragma unroll
  for (int k = 0; k < 4; ++k) to[k] = to_float(from[k]);
}

// Load this thread's coordinates of a tile, four neighbours in every fourth row: those of columns 4 (lane % 8) on in rows lane / 8,
// lane / 8 + 4, ...
template <typename T>
ALQ_DEVICE void load_fours(const T* tile, float* held) {
  const int lane = threadIdx.x % kLanes, first = lane / 8 * kLanes + lane % 8 * 4;
  if (sizeof(T) == sizeof(float) && aligned_for_four(tile)) {
#pragma unroll
    for (int m = 0; m < kHeld / 4; ++m) load_four(reinterpret_cast<const float*>(tile + first + m * 4 * kLanes), held + 4 * m);
  } else {
#pragma unroll
    for (int m = 0; m < kHeld / 4; ++m) load_neighbours(tile + first + m * 4 * kLanes, held + 4 * m);  // [rare]
  }
}

// Rotate the chunk of which each thread brings four neighbours of rows of its warp's tile (load_fours) in `held`, by `rounds`
// turns of signs, one or two; `first` is the element of the fusion group at which the chunk starts. The thread gets back what
// held.cuh gives it; `memory` holds the chunk.
template <int rounds>
ALQ_DEVICE void rotate_held(const Group& group, float* held, float* memory, uint32_t first) {
  __shared__ uint32_t words[kHeldTiles][kLanes];  // of the second turn
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, log2 = group.tiles_log2;
  const int tile_of_bucket = warp & ((1 << log2) - 1), row = lane / 8, unit = lane % 8;
  const uint32_t fours = warp * kTileBytes + row * kRowBytes + (unit ^ row) * kUnitBytes;
  const auto word_of_turn = [&](int turn) {
    return sign_words(group.signs, first + (warp - tile_of_bucket) * kTile, turn, tile_of_bucket, static_cast<uint32_t>(lane));
  };
  const uint32_t word = word_of_turn(0);
  if (rounds > 1) words[warp][lane] = word_of_turn(2);
  uint32_t of_columns[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) of_columns[k] = from_lane<kLanes>(word, 4 * unit + k) >> row;
#pragma unroll
  for (int n = 0; n < kHeld; ++n) held[n] = with_sign(held[n], of_columns[n % 4], n / 4 * 4);
#pragma unroll
  for (int m = 0; m < kHeld / 4; ++m)
    store_four(held + 4 * m, at(memory, (fours ^ m % 2 * 4 * kUnitBytes) + m * 4 * kRowBytes));
  meet_warp();
#pragma unroll 1
  for (bool again = rounds > 1;; again = false) {  // [round]
    int thread = threadIdx.x;                         // [round]
    if (rounds > 1) forget(thread);                   // [round]
    transform_row(memory, thread, group.scale);       // [round]
    meet_warp();                                      // [round]
    transform_rows(memory, thread);                   // [round]
    __syncthreads();                                  // [round]
    const uint32_t own = own_place(thread);           // [round]
#pragma unroll
    for (int n = 0; n < kHeld; ++n)                         // [round]
      held[n] = *at(memory, own + n * kWarps * kRowBytes);  // [round]
    transform_held(log2, held);                             // [round]
    if (!again) break;                                      // [round]
    return_held(held, memory, thread, words);
  }
  __syncthreads();  // the memory is needed again
}

}  // namespace alq
