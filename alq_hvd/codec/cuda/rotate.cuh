// The rotation of buckets that lie in shared or device memory, and back, by all threads of a block. What it computes is
// specified in alq_hvd/codec/rotation.py; the order of its additions is part of the wire format.
//
// Five stages at a time are done in registers: a thread reads 32 coordinates at distance 1, 32, 1024, ..., adds, and
// writes them back, so that 2^13 coordinates take three passes. In shared memory a word is left out behind every 32
// (kRowStep): whatever the distance, the 32 threads of a warp then read from 32 different banks.
#pragma once

#include "device.cuh"

namespace alq {

constexpr int kStages = 5;  // of one pass

// Coordinates one after another: in shared memory with gaps, in device memory (of one bucket) without.
template <bool gaps>
struct Coordinates {
  static constexpr int kRowStep = gaps ? kLanes + 1 : kLanes;
  float* x;

  ALQ_DEVICE float& operator[](int i) const { return x[gaps ? i + (i >> 5) : i]; }
};

// Blocks of 2^log2 coordinates that are transformed at the same time: `count` of them, `stride` apart.
struct Blocks {
  int start, log2, count, stride;
};

// Transform by the stages first_stage, ... first_stage + R - 1; the first pass multiplies by `scale` before.
template <int R, bool gaps>
ALQ_DEVICE void stages_of_pass(Coordinates<gaps> x, const Blocks& blocks, int first_stage, float scale) {
  constexpr int N = 1 << R;
  const int mask = (1 << blocks.log2) - 1, below = (1 << first_stage) - 1;
#pragma unroll 1
  for (int group = threadIdx.x; group < blocks.count << (blocks.log2 - R); group += kThreads) {
    const int place = ((group & ~below) << R) + (group & below);
    int i = blocks.start + (place >> blocks.log2) * blocks.stride + (place & mask);
    float v[N];
    if (first_stage == 0) {
#pragma unroll
      for (int m = 0; m < N; ++m) v[m] = x[i + m] * scale;
    } else {  // 32 coordinates further on are one row further on, wherever i is
#pragma unroll
      for (int m = 0; m < N; ++m) v[m] = (&x[i])[m * (x.kRowStep << (first_stage - kStages))];
    }
    stages_across<N>(v);
    forget(i);
    if (first_stage == 0) {
#pragma unroll
      for (int m = 0; m < N; ++m) x[i + m] = v[m];
    } else {
#pragma unroll
      for (int m = 0; m < N; ++m) (&x[i])[m * (x.kRowStep << (first_stage - kStages))] = v[m];
    }
  }
  __syncthreads();
}

// The same for rows that begin where a row of shared memory does: addresses are one addition apart.
template <bool gaps>
ALQ_DEVICE void first_stages_of_rows(Coordinates<gaps> x, const Blocks& blocks, float scale) {
  const int mask = (1 << blocks.log2) - 1;
#pragma unroll 1
  for (int group = threadIdx.x; group < blocks.count << (blocks.log2 - kStages); group += kThreads) {
    const int place = group << kStages;
    float* row = &x[blocks.start + (place >> blocks.log2) * blocks.stride + (place & mask)];
    float v[kLanes];
#pragma unroll
    for (int m = 0; m < kLanes; ++m) v[m] = row[m] * scale;
    stages_across<kLanes>(v);
#pragma unroll
    for (int m = 0; m < kLanes; ++m) row[m] = v[m];
  }
  __syncthreads();
}

template <bool gaps>
ALQ_DEVICE void pass(Coordinates<gaps> x, const Blocks& blocks, int first_stage, float scale) {
  const int left = blocks.log2 - first_stage;
  if (left >= 5) stages_of_pass<5>(x, blocks, first_stage, scale);
  if (left == 4) stages_of_pass<4>(x, blocks, first_stage, scale);
  if (left == 3) stages_of_pass<3>(x, blocks, first_stage, scale);
  if (left == 2) stages_of_pass<2>(x, blocks, first_stage, scale);
  if (left == 1) stages_of_pass<1>(x, blocks, first_stage, scale);
}

// Multiply blocks by `scale`, then transform them.
template <bool gaps>
ALQ_DEVICE void transform(Coordinates<gaps> x, const Blocks& blocks, float scale) {
  if (blocks.log2 >= kStages && (blocks.start | blocks.stride) % kLanes == 0)
    first_stages_of_rows(x, blocks, scale);
  else
    pass(x, blocks, 0, scale);
  if (gaps) {  // known distances make addresses constant; shared memory holds no block above 2^15
    if (blocks.log2 > 5) pass(x, blocks, 5, 1.0f);
    if (blocks.log2 > 10) pass(x, blocks, 10, 1.0f);
  } else {
    for (int stage = kStages; stage < blocks.log2; stage += kStages) pass(x, blocks, stage, 1.0f);
  }
}

// Change signs by `turn`, a warp a tile of a block; `first` is the element of the fusion group at which the first of the
// buckets starts.
template <bool gaps>
ALQ_DEVICE void change_signs(Coordinates<gaps> x, const Blocks& blocks, StreamKey signs, uint32_t first, int turn) {
  const int lane = threadIdx.x % kLanes, size = 1 << blocks.log2, tiles_log2 = blocks.log2 > 10 ? blocks.log2 - 10 : 0;
  for (int k = threadIdx.x / kLanes; k < blocks.count << tiles_log2; k += kWarps) {
    const int bucket = k >> tiles_log2, tile = k & ((1 << tiles_log2) - 1);
    const uint32_t word = sign_words(signs, first + bucket * blocks.stride, turn, tile, static_cast<uint32_t>(lane));
    const int start = blocks.start + bucket * blocks.stride + tile * kTile;
    for (int row = 0, i = lane; row < kRows && tile * kTile + i < size; ++row, i += kLanes) {
      float& value = x[start + i];
      value = __uint_as_float(__float_as_uint(value) ^ (word >> row << 31));
    }
  }
}

// Multiply the coordinates begin <= i < end of each of `count` buckets.
template <bool gaps>
ALQ_DEVICE void multiply(Coordinates<gaps> x, const Blocks& buckets, int begin, int end, float factor) {
  const int length = end - begin;
  for (int k = threadIdx.x; k < buckets.count * length; k += kThreads) {
    const int bucket = k / length;
    x[buckets.start + bucket * buckets.stride + begin + k - bucket * length] *= factor;
  }
}

// Rotate, or rotate back, `size` coordinates in place: buckets of `bucket_size`, and a short one behind them if there are
// more. With `outer` false the caller does turn 0's signs, and the factor of what lies behind the first block, itself:
// before it calls for a rotation, after it has called for one back (see OuterSigns).
template <bool back, bool outer, bool gaps>
ALQ_DEVICE void rotate(Coordinates<gaps> x, int bucket_size, int rounds, StreamKey signs, uint32_t first, int size) {
  const int whole = size / bucket_size * bucket_size;
#pragma unroll 1
  for (int part = whole ? 0 : 1; part < (whole < size ? 2 : 1); ++part) {
    const int start = part ? whole : 0, length = part ? size - whole : bucket_size, count = part ? 1 : whole / length;
    const int log2 = block_log2(length), block = 1 << log2;
    const bool uneven = block < length && log2 % 2;
#pragma unroll 1
    for (int step = 0; step < 2 * rounds; ++step) {
      const int turn = back ? 2 * rounds - 1 - step : step, last = turn % 2;
      if (last && block == length) continue;
      const Blocks blocks = {start + (last ? length - block : 0), log2, count, length}, buckets = {start, 0, count, length};
      if (back) transform(x, blocks, block_scale(log2, true));
      if (turn || outer) {  // what these multiply is not in the block
        change_signs(x, blocks, signs, first + start, turn);
        if (uneven) {
          const float factor = back ? kSqrtTwo : kSqrtHalf;
          multiply(x, buckets, last ? 0 : block, last ? length - block : length, factor);
        }
        __syncthreads();
      }
      if (!back) transform(x, blocks, block_scale(log2, false));
    }
  }
}

// Turn 0 of the rotation of a chunk whose buckets are powers of two from 64 on, or multiples of kTile, the last of them
// perhaps short. `first` is the element of the fusion group at which the chunk of `size` coordinates starts.
struct OuterSigns {
  Coordinates<true> chunk;
  int bucket_size, size;
  StreamKey signs;
  uint32_t first;

  // Write this thread's lane of the whole tile from `begin` on to the chunk, before the rest of its rotation.
  ALQ_DEVICE void enter(int begin, float* rows) const {
    float* x = &chunk[begin + threadIdx.x % kLanes];
    const bool flipped = flip(begin, rows);
#pragma unroll
    for (int row = 0; row < kRows; ++row) x[row * chunk.kRowStep] = rows[row];
    if (!flipped) change(begin, kSqrtHalf, x);
  }

  // Read it from the chunk, after the rest of a rotation back; rows past the end are zero.
  ALQ_DEVICE void leave(int begin, float* rows) const {
    float* x = &chunk[begin + threadIdx.x % kLanes];
    if (!one_block(begin)) change(begin, kSqrtTwo, x);
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      rows[row] = begin + row * kLanes + static_cast<int>(threadIdx.x % kLanes) < size ? x[row * chunk.kRowStep] : 0.0f;
    flip(begin, rows);
  }

  // Return whether the tile from `begin` on is part of one block.
  ALQ_DEVICE bool one_block(int begin) const {
    const int start = begin / bucket_size * bucket_size, left = size - start;
    return begin - start + kTile <= 1 << block_log2(left < bucket_size ? left : bucket_size);
  }

  // Change the signs of a tile that is part of one block; return whether it is.
  ALQ_DEVICE bool flip(int begin, float* rows) const {
    if (!one_block(begin)) return false;
    const int start = begin / bucket_size * bucket_size;
    const uint32_t word = sign_words(signs, first + start, 0, (begin - start) / kTile, threadIdx.x % kLanes);
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      rows[row] = __uint_as_float(__float_as_uint(rows[row]) ^ (word << (kRows - 1 - row) & 0x80000000u));
    return true;
  }

  // Do the same in the chunk, for any tile, and multiply what lies behind first blocks.
  ALQ_DEVICE void change(int begin, float factor, float* x) const {
    const int lane = threadIdx.x % kLanes;
    int start = begin / bucket_size * bucket_size, left = size - start, place = begin - start;
    int log2 = block_log2(left < bucket_size ? left : bucket_size);
    uint32_t word = 0;
#pragma unroll 1
    for (int i = lane; i < kTile && begin + i < size; i += kLanes, place += kLanes, x += chunk.kRowStep) {
      if (place == bucket_size) {  // the next bucket starts within the tile
        start += bucket_size;
        left = size - start;
        place = 0;
        log2 = block_log2(left < bucket_size ? left : bucket_size);
      }
      if (place % kTile == 0) word = sign_words(signs, first + start, 0, place / kTile, static_cast<uint32_t>(lane));
      if (place + lane < 1 << log2)
        *x = __uint_as_float(__float_as_uint(*x) ^ (word >> (place / kLanes % kRows) << 31));
      else if (log2 % 2)
        *x *= factor;
    }
  }
};

}  // namespace alq
