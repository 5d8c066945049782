// Whole chunks in registers: the fast way to encode, for buckets of 1024, 2048, 4096 or 8192 coordinates.
//
// A block holds kHeldChunk coordinates, thread t of it those at t, t + 256, t + 512, ...: rows w, w + 8, w + 16 and w + 24 of
// each tile, where w is its warp. So a warp loads 32 neighbours at a time, and a thread has four of the 1024 sums of
// quantise.h all to itself. Only those sums, and codes on their way into words, go through shared memory; no row has a branch.
// What is out of the ordinary (a norm that is zero, NaN or extreme, a short chunk, clipping, strata that are shifted anew within a
// tile, a residual of dithered records) is left to encode.cuh.
#pragma once

#include "norms.cuh"
#include "search.cuh"

namespace alq {

constexpr int kHeldChunk = 8192;
constexpr int kHeld = kHeldChunk / kThreads;      // coordinates a thread
constexpr int kHeldTiles = kHeldChunk / kTile;    // one a warp
constexpr int kHeldRows = kTile / kThreads;       // of a tile, a thread

// What a chunk is encoded with and where to: its record's key, the element of the fusion group at which the record starts, that
// of the record at which the chunk starts, and where the record's codes begin.
struct Target {
  StreamKey key;
  uint32_t first_element, begin, codes_offset;
  uint32_t* record;
};

// The Unit of a tile's bucket, and how the tile's strata are shifted: read at once.
struct alignas(16) HeldUnit {
  float norm, reciprocal, sent;
  uint32_t shift;
};

// What a block shares, in the memory of its chunk: no coordinate is there any more.
struct HeldShared {
  double sums[kHeldTiles][kThreads];  // of each bucket, folded by each thread
  uint32_t codes[kHeldTiles][kWarps][kLanes];
  Entry entries[256];
  float tree[256];
  double levels[256];  // in rounding to the nearest
  HeldUnit units[kHeldTiles];
  double totals[kHeldTiles];
  uint32_t unusual, checks[kWarps];
};
static_assert(sizeof(HeldShared) <= kHeldChunk * sizeof(float), "lies in the memory of a chunk");

// Return whether a chunk of `size` coordinates can be held.
ALQ_DEVICE bool can_hold(const Group& group, int size) { return group.tiles_log2 >= 0 && size == kHeldChunk; }
static_assert(kStrataPeriod == kTile, "the strata of a tile are shifted alike, if the group starts with a tile");

// Load a whole chunk that crosses from one tensor to another, and starts where the cursor is, into shared memory. Few tensors are
// searched, and several coordinates are on their way at a time: else the few blocks that do this would keep a whole group waiting.
template <typename T>
ALQ_DEVICE void load_crossing(Cursor<const T>& cursor, uint32_t begin, float* room) {  // [rare]
  constexpr int kAtOnce = 8;
  const uint32_t last = locate_together(cursor.ends, cursor.tensor, cursor.count, begin + kHeldChunk - 1);
#pragma unroll 1
  for (int first = threadIdx.x; first < kHeldChunk; first += kAtOnce * kThreads) {
    const T* places[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) places[n] = cursor.up_to(last, begin + first + n * kThreads);
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) room[first + n * kThreads] = to_float(*places[n]);
  }
  __syncthreads();
}

// Load this thread's coordinates of the chunk at `begin`. `room`, kHeldChunk floats of shared memory, is used where no one
// tensor holds the chunk.
template <typename T>
ALQ_DEVICE void load_held(const Tensors<T>& tensors, uint32_t begin, float* room, float* held) {
  auto cursor = tensors.cursor();
  if (const T* whole = cursor.chunk_at(begin, kHeldChunk)) {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) held[n] = to_float((whole + threadIdx.x)[n * kThreads]);
  } else {
    load_crossing(cursor, begin, room);  // [rare]
#pragma unroll
    for (int n = 0; n < kHeld; ++n) held[n] = (room + threadIdx.x)[n * kThreads];  // [rare]
    __syncthreads();                                                               // [rare] the room is needed again
  }
  if (tensors.residual) add_held<kThreads>(tensors.residual + begin + threadIdx.x, held);  // [feedback]
}

// Write this thread's part of the sums of f over buckets of `tiles` tiles, folded as far as it goes alone.
template <int tiles, typename F>
ALQ_DEVICE void sum_held(F f, HeldShared& shared) {
#pragma unroll
  for (int bucket = 0; bucket < kHeldTiles / tiles; ++bucket) {
    double sums[kHeldRows];
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      sums[k] = 0;
#pragma unroll
      for (int tile = 0; tile < tiles; ++tile) sums[k] = f((bucket * tiles + tile) * kHeldRows + k, sums[k]);
    }
    shared.sums[bucket][threadIdx.x] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  }
}

// The same for the largest magnitudes, whose order is that of their bits.
template <int tiles>
ALQ_DEVICE void largest_held(const float* held, HeldShared& shared) {
#pragma unroll
  for (int bucket = 0; bucket < kHeldTiles / tiles; ++bucket) {
    uint32_t largest = 0;
#pragma unroll
    for (int n = 0; n < tiles * kHeldRows; ++n) {
      const uint32_t bits = __float_as_uint(held[bucket * tiles * kHeldRows + n]) & 0x7fffffffu;
      largest = bits > largest ? bits : largest;
    }
    shared.sums[bucket][threadIdx.x] = largest;
  }
}

// Write the parts of the sums of f, for buckets of 2^log2 tiles.
template <typename F>
ALQ_DEVICE void sums_of_buckets(int log2, F f, HeldShared& shared) {
  if (log2 == 3)
    sum_held<8>(f, shared);  // [tiles 8]
  else if (log2 == 2)
    sum_held<4>(f, shared);  // [tiles 4]
  else if (log2 == 1)
    sum_held<2>(f, shared);  // [tiles 2]
  else
    sum_held<1>(f, shared);  // [tiles 1]
}

ALQ_DEVICE void largest_of_buckets(int log2, const float* held, HeldShared& shared) {
  if (log2 == 3)
    largest_held<8>(held, shared);  // [largest]
  else if (log2 == 2)
    largest_held<4>(held, shared);  // [largest]
  else if (log2 == 1)
    largest_held<2>(held, shared);  // [largest]
  else
    largest_held<1>(held, shared);  // [largest]
}

}  // namespace alq
