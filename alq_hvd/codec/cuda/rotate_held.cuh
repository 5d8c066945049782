// The rotation of whole chunks that the threads of a block hold (held.cuh), for buckets of 1024, 2048, 4096 or 8192, and back:
// stages come in the same order either way, only signs and scale change places.
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

// What four numbers of a column, eight rows apart, are multiplied by: a power of two, with a sign each. Kept are its upper byte
// with each sign, and the byte below: a factor is put together by one instruction.
struct SignedFactors {
  uint32_t upper, lower;

  ALQ_DEVICE float operator[](int k) const { return __uint_as_float(chosen_bytes(upper, lower, 0x455u | k << 12)); }
};

// Return them; bits 7, 15, 23 and 31 of `word` are the signs.
ALQ_DEVICE SignedFactors with_signs(float factor, uint32_t word) {
  const uint32_t bits = __float_as_uint(factor);
  return {(word & 0x80808080u) | (bits >> 24) * 0x01010101u, bits >> 16 & 0xffu};
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

// Transform this thread's row of a tile by distances up to 16.
ALQ_DEVICE void transform_row(float* memory, uint32_t thread) {
  const uint32_t first = thread * kRowBytes + thread % 8 * kUnitBytes;
  float v[kLanes];
#pragma unroll
  for (int unit = 0; unit < kLanes / 4; ++unit) load_four(at(memory, first ^ unit * kUnitBytes), v + 4 * unit);
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

// What changes the signs of a turn: as many words as a chunk has columns, shared.
using SignsOfTurn = uint32_t[kHeldTiles][kLanes];

// Return what this thread multiplies its coordinates of a tile by.
ALQ_DEVICE SignedFactors factors_of_tile(float factor, const SignsOfTurn& words, int tile, int thread) {
  return with_signs(factor, words[tile][thread % kLanes] << (kWarps - 1 - thread / kLanes));  // row `warp` at bit 7
}

// Put what the thread holds where the next round finds it, with the signs of a turn and the scale of the round.
ALQ_DEVICE void return_held(const float* held, float* memory, int thread, float scale, const SignsOfTurn& words) {
  float* const own = at(memory, own_place(thread));
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const SignedFactors factors = factors_of_tile(scale, words, tile, thread);
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      const int n = tile * kHeldRows + k;
      own[n * kThreads] = held[n] * factors[k];
    }
  }
  __syncthreads();
}

// Return the signs of a column of the tile of this warp.
ALQ_DEVICE uint32_t word_of_column(const Group& group, StreamKey signs, uint32_t first, int turn) {
  const int warp = threadIdx.x / kLanes, tile = warp & ((1 << group.tiles_log2) - 1);
  return sign_words(signs, first + (warp - tile) * kTile, turn, tile, threadIdx.x % kLanes);
}

// Transform the chunk in `memory`, which the threads of each warp have filled, all of their tile, as many times as there are
// rounds; between two, multiply by `scale` and the signs in `words`. The thread gets what held.cuh gives it.
ALQ_DEVICE void transform_chunk(int log2, int rounds, float scale, const SignsOfTurn& words, float* memory, float* held) {
  meet_warp();
#pragma unroll 1
  for (bool again = rounds > 1;; again = false) {  // [round]
    int thread = threadIdx.x;                         // [round]
    forget(thread);                                   // [round]
    transform_row(memory, thread);                    // [round]
    meet_warp();                                      // [round]
    transform_rows(memory, thread);                   // [round]
    __syncthreads();                                  // [round]
    const float* own = at(memory, own_place(thread));  // [round]
#pragma unroll
    for (int n = 0; n < kHeld; ++n) held[n] = own[n * kThreads];  // [round]
    transform_held(log2, held);                                   // [round]
    if (!again) break;                                            // [round]
    return_held(held, memory, thread, scale, words);              // [again]
  }
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

// Put this thread's column of the tile of its warp where transform_chunk finds it.
ALQ_DEVICE void put_column(const float* rows, float* memory) {
  const uint32_t place = threadIdx.x / kLanes * kTileBytes + threadIdx.x % kLanes * static_cast<uint32_t>(sizeof(float));
#pragma unroll
  for (int row = 0; row < kRows; ++row) *at(memory, (place ^ row % 8 * kUnitBytes) + row * kRowBytes) = rows[row];
}

// Rotate the chunk of which each thread brings four neighbours of rows of its warp's tile (load_fours) in `held`, by `rounds`
// turns of signs, one or two; `first` is the element of the fusion group at which the chunk starts. The thread gets back what
// held.cuh gives it; `memory` holds the chunk.
template <int rounds>
ALQ_DEVICE void rotate_held(const Group& group, float* held, float* memory, uint32_t first) {
  __shared__ SignsOfTurn words;  // of the second turn
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, row = lane / 8, unit = lane % 8;
  const uint32_t fours = warp * kTileBytes + row * kRowBytes + (unit ^ row) * kUnitBytes;
  const uint32_t word = word_of_column(group, group.signs, first, 0);
  if (rounds > 1) words[warp][lane] = word_of_column(group, group.signs, first, 2);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint32_t of_column = from_lane<kLanes>(word, 4 * unit + k) << (3 - row);  // row `row + 4` at bit 7
    const SignedFactors even = with_signs(group.scale, of_column << 4), odd = with_signs(group.scale, of_column);
#pragma unroll
    for (int m = 0; m < kHeld / 4; ++m) held[4 * m + k] *= (m % 2 ? odd : even)[m / 2];
  }
#pragma unroll
  for (int m = 0; m < kHeld / 4; ++m)
    store_four(held + 4 * m, at(memory, (fours ^ m % 2 * 4 * kUnitBytes) + m * 4 * kRowBytes));
  transform_chunk(group.tiles_log2, rounds, group.scale, words, memory, held);
  __syncthreads();  // the memory is needed again
}

// What a rotation back needs besides the chunk, shared: the signs of the second turn, which is undone between two rounds, and of
// the first, which the caller undoes (undo_first_turn).
struct BackSigns {
  SignsOfTurn second, first;
};

// Leave the signs of this warp's tile there.
ALQ_DEVICE void make_signs(const Group& group, StreamKey signs, uint32_t first, BackSigns& to) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  if (group.rounds > 1) to.second[warp][lane] = word_of_column(group, signs, first, 2);  // [again]
  to.first[warp][lane] = word_of_column(group, signs, first, 0);
}

// Return the exact factor of a chunk's buckets before they are transformed on the way back.
ALQ_DEVICE float scale_back(const Group& group) {
  return block_scale(10 + group.tiles_log2, true);
}

// Give f(n, factor) the number of each coordinate that the thread holds after a rotation back, and what it is still to be
// multiplied by: 1 or -1.
template <typename F>
ALQ_DEVICE void undo_first_turn(const BackSigns& signs, F f) {
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const SignedFactors factors = factors_of_tile(1.0f, signs.first, tile, threadIdx.x);
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) f(tile * kHeldRows + k, factors[k]);
  }
}

}  // namespace alq
