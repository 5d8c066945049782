// Whole chunks in registers: the fast way to encode, for buckets of 1024, 2048, 4096 or 8192 coordinates.
//
// A block holds kHeldChunk coordinates, thread t of it those at t, t + 256, t + 512, ...: rows w, w + 8, w + 16 and w + 24 of
// each tile, where w is its warp. So a warp loads 32 neighbours at a time, and a thread has four of the 1024 sums of
// quantise.h all to itself. Only those sums, and codes on their way into words, go through shared memory; no row has a branch.
// What is out of the ordinary (a norm that is zero, NaN or extreme, a short chunk, clipping) is left to encode.cuh.
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

// The Unit of a tile's bucket, which is read at once.
struct alignas(16) HeldUnit {
  float norm, reciprocal, sent, unused;
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

// Load this thread's coordinates of a chunk that crosses from one tensor to another.
template <typename T>
ALQ_DEVICE void load_crossing(Cursor<const T>& cursor, uint32_t begin, float* room, float* held) {  // [rare]
#pragma unroll 1
  for (int i = threadIdx.x; i < kHeldChunk; i += kThreads) room[i] = to_float(*cursor.at(begin + i));
#pragma unroll
  for (int n = 0; n < kHeld; ++n) held[n] = room[n * kThreads + threadIdx.x];
  __syncthreads();  // the room is needed again
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
    load_crossing(cursor, begin, room, held);  // [rare]
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

// Return the level of an entry, by the distance in bytes that Search gives.
ALQ_DEVICE double level_at(const double* levels, uint32_t bytes) {
  static_assert(sizeof(Entry) == sizeof(double), "entries and levels are as far apart");
  return *reinterpret_cast<const double*>(reinterpret_cast<const char*>(levels) + bytes);
}

// Keep what this thread has of the sums of a bucket, and start anew.
ALQ_DEVICE void end_bucket(int bucket, double* sums, HeldShared& shared) {
  shared.sums[bucket][threadIdx.x] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#pragma unroll
  for (int k = 0; k < kHeldRows; ++k) sums[k] = 0;
}

// Fold what the threads have written for a bucket; all threads of the warp get the result.
template <typename Combine>
ALQ_DEVICE double folded(const double* sums, Combine combine) {
  const auto each = [&](int q) { return sums[q * kLanes + threadIdx.x % kLanes]; };
  return fold_warp(fold_rows<kWarps>(combine, each), combine);
}

// Write the words of the tile of this warp, whose codes the threads have left by byte; return their sum.
template <int B>
ALQ_DEVICE uint32_t write_held_words(const HeldShared& shared, uint32_t* words) {
  constexpr int kOfByte = B <= 4 ? 2 : 1, kBits = B * kOfByte, kParts = kWarps / kOfByte;
  const int lane = threadIdx.x % kLanes, tile = threadIdx.x / kLanes;
  uint32_t parts[kParts], out[B] = {}, sum = 0;
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    parts[i] = shared.codes[tile][i * kOfByte][lane];
    if (kOfByte == 2) parts[i] |= shared.codes[tile][2 * i + 1][lane] << B;
  }
#pragma unroll
  for (int field = 0; field < kHeldRows * kParts; ++field) {  // of kBits bits, row after row
    const uint32_t bits = parts[field % kParts] >> (field / kParts * 8) & 0xffu;
    const int word = field * kBits / 32, shift = field * kBits % 32;
    out[word] |= bits << shift;
    if (shift + kBits > 32) out[word + 1 < B ? word + 1 : word] |= bits >> (32 - shift);
  }
#pragma unroll
  for (int k = 0; k < B; ++k) {
    words[k * kLanes + lane] = out[k];
    sum += out[k];
  }
  return sum;
}

// Take the norm of the bucket of this warp, and keep what its coordinates are divided by.
ALQ_DEVICE void finish_norm(const Group& group, float smallest_level, HeldShared& shared) {
  const int bucket = threadIdx.x / kLanes;
  double total = 0;
  if (group.maximum_norm)
    total = folded(shared.sums[bucket], Larger());  // [largest]
  else
    total = folded(shared.sums[bucket], Add());
  const float norm = finished_norm(group, total, group.bucket_size);
  const Unit unit = make_unit(norm, norm, smallest_level);
  const int lane = threadIdx.x % kLanes;
  if (lane < 1 << group.tiles_log2) shared.units[(bucket << group.tiles_log2) + lane] = {norm, unit.reciprocal, norm, 0};
  if (lane) return;
  shared.totals[bucket] = total;
  if (!(unit.reciprocal > 0)) shared.unusual = 1;
}

// Take what is sent in place of the norm of the bucket of this warp: see projection_scale.
ALQ_DEVICE void finish_projection(int log2, HeldShared& shared) {
  const int bucket = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const float scale = static_cast<float>(shared.totals[bucket] / folded(shared.sums[bucket], Add()));
  if (lane < 1 << log2 && scale >= kSmallestNorm && scale <= kLargestNorm)
    shared.units[(bucket << log2) + lane].sent = scale;
}

// Write what was lost of the coordinates that the threads hold.
ALQ_DEVICE void keep_lost_held(const float* held, const HeldShared& shared, float* residual) {
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const uint32_t codes = shared.codes[tile][threadIdx.x / kLanes][threadIdx.x % kLanes];
    const float sent = shared.units[tile].sent;
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      const int n = tile * kHeldRows + k;
      residual[n * kThreads] = lost(held[n], dequantise(sent, shared.entries[codes >> 8 * k & 0xffu].lower));
    }
  }
}

// Encode a chunk whose coordinates the threads hold, if no bucket of it is unusual; return whether it did. Takes `shared` as it
// is. Nothing of the record or the residual, which may be null, is written if it did not.
template <int B, bool nearest>
ALQ_DEVICE bool encode_held(const Group& group, const Tables* tables, const Target& to, const float* held,
                            HeldShared& shared, float* residual) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int log2 = group.tiles_log2, buckets = kHeldTiles >> log2;
  if (threadIdx.x < 1 << B) {
    copy_entry<B>(tables, threadIdx.x, shared.entries, shared.tree);  // [one warp]
    if (nearest) shared.levels[threadIdx.x] = tables->levels[threadIdx.x];
  }
  const Search<B> search = make_search<B>(tables, shared.entries, shared.tree);
  if (threadIdx.x == 0) shared.unusual = 0;
  if (group.maximum_norm)
    largest_of_buckets(log2, held, shared);  // [largest]
  else
    sums_of_buckets(log2, [&](int n, double sum) { return plus_product(held[n], held[n], sum); }, shared);
  __syncthreads();
  if (warp < buckets) finish_norm(group, tables->smallest_level, shared);  // [fold]
  __syncthreads();
  if (shared.unusual) return false;

  const uint32_t weyl = weyl_number(to.key, to.first_element + to.begin + threadIdx.x);
  const uint32_t second = opaque(to.key.second * kLastFactor);
  double products[kHeldRows] = {};
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const HeldUnit unit = shared.units[tile];
    uint32_t codes = 0;
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      const int n = tile * kHeldRows + k;
      const float normalised = divide(held[n], unit.norm, unit.reciprocal, Fused());
      const float draw = nearest ? kDraws * kDrawStep / 2
                                 : static_cast<float>(draw_bits(weyl + n * (kThreads * kWeylStep), second));
      const uint32_t bytes = search.round(normalised, draw);
      codes |= k ? bytes << (8 * k - 3) : bytes >> 3;
      if (nearest) products[k] = fused(static_cast<double>(held[n]), level_at(shared.levels, bytes), products[k]);
    }
    shared.codes[tile][warp][lane] = codes;
    if (nearest && (tile + 1) % (1 << log2) == 0) end_bucket(tile >> log2, products, shared);  // [bucket's end]
  }
  if (nearest) {
    __syncthreads();
    if (warp < buckets) finish_projection(log2, shared);  // [fold]
  }
  __syncthreads();
  uint32_t check = write_held_words<B>(shared, to.record + to.codes_offset + (to.begin / kTile + warp) * (B * kLanes));
  if (lane == 0 && warp < buckets) {
    const uint32_t sent = __float_as_uint(shared.units[warp << log2].sent);
    to.record[norms_offset(group) + (to.begin / kTile >> log2) + warp] = sent;
    check += sent;
  }
  if (residual) keep_lost_held(held, shared, residual + to.begin + threadIdx.x);  // [feedback]
  check = sum_of_warp(check);
  if (lane == 0) shared.checks[warp] = check;
  __syncthreads();
  if (warp == 0) add_from_warp(to.record + 7, lane < kWarps ? shared.checks[lane] : 0);  // [one warp]
  return true;
}

}  // namespace alq
