// Records of rotated buckets to sums. Neighbours of the same signs, a run, are added first and rotated back once: whole chunks of
// buckets that encoders hold, too, in registers (rotate_held.cuh), others in shared memory.
#pragma once

#include "buckets.cuh"
#include "decode.cuh"
#include "encode_rotated.cuh"

namespace alq {

// What names the signs of a record.
struct RecordSigns {
  StreamKey key;
  uint32_t first_element;
};

ALQ_DEVICE RecordSigns signs_of(const Records& records, uint32_t r) {
  const uint32_t* words = records.data[r] + 8;
  return {{words[0], words[1]}, words[2]};
}

// Return whether records r and r + 1 belong to one run; all threads of the warp must ask.
ALQ_DEVICE bool same_signs(const Records& records, uint32_t r) {
  const uint32_t lane = threadIdx.x % kLanes, word = kHeaderWords + lane;
  return all_of_warp(lane >= kRotationBytes / 4 || records.data[r][word] == records.data[r + 1][word]);
}

// Return the end of the run that record r starts.
ALQ_DEVICE uint32_t run_end(const Records& records, uint32_t r) {
  uint32_t end = r + 1;
  while (end < records.count && same_signs(records, end - 1)) ++end;
  return end;
}

// Write `scale` times what the threads hold to tensors between which the chunk crosses; `memory` holds the chunk.
template <typename T>
ALQ_DEVICE void store_crossing(Cursor<T>& cursor, uint32_t begin, float scale, const float* held, float* memory) {  // [rare]
  put_back(held, Coordinates<false>{memory});
  __syncthreads();
  const int start = threadIdx.x / kLanes * kTile;
  float rows[kRows];
#pragma unroll
  for (int row = 0; row < kRows; ++row) rows[row] = memory[start + row * kLanes + threadIdx.x % kLanes];
  store_tile(cursor, begin + start, kTile, scale, rows);
}

// Decode and sum the chunk of `size` elements from `begin` on, for buckets as encode_rotated takes them. `chunk` and, where
// there is more than one run, `total` are shared; `sum(from, to, start, rows)` adds records over a tile, and `take(start, rest, rows)`
// gets this thread's lane of each tile.
template <typename Sum, typename Take>
ALQ_DEVICE void sum_chunk(const Records& records, const Group& group, uint32_t begin, int size, Coordinates<true> chunk,
                          float* total, Sum sum, Take take) {  // [rare]
  const int lane = threadIdx.x % kLanes;
  for (uint32_t run = 0, next; run < records.count; run = next) {
    next = run_end(records, run);
#pragma unroll 1
    for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
      float rows[kRows], *x = &chunk[start + lane];
      sum(run, next, start, rows);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
        if (start + row * kLanes + lane < size) x[row * chunk.kRowStep] = rows[row];
    }
    __syncthreads();
    const RecordSigns signs = signs_of(records, run);
    rotate<true, false>(chunk, group.bucket_size, group.rounds, signs.key, signs.first_element + begin, size);
    const RecordSigns again = signs_of(records, run);  // read again, not kept
    const OuterSigns outer = {chunk, static_cast<int>(group.bucket_size), size, again.key, again.first_element + begin};
#pragma unroll 1
    for (int start = threadIdx.x / kLanes * kTile; start < size; start += kWarps * kTile) {
      const int rest = size - start < kTile ? size - start : kTile;
      float rows[kRows], *sums = total + start + lane;
      outer.leave(start, rows);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
        if (row * kLanes + lane < rest) rows[row] += run ? sums[row * kLanes] : 0.0f;  // -0 becomes 0, as in a sum
      if (next == records.count)
        take(start, rest, rows);
      else
#pragma unroll
        for (int row = 0; row < kRows; ++row)
          if (row * kLanes + lane < rest) sums[row * kLanes] = rows[row];
    }
    __syncthreads();
  }
}

// Decode and sum a whole chunk of buckets that can be held, from `begin` on, and write `scale` times the sum to the tensors;
// `memory` is shared, and holds the chunk and, where there is more than one run, their sum. `put_sum(from, to, start, factor)` puts `factor`, a power of two, times the sum of
// records over a tile where it is rotated back (put_column).
template <typename T, typename Put>
ALQ_DEVICE void sum_held_chunk(const Records& records, const Group& group, uint32_t begin, float* memory, float scale,
                               Cursor<T> cursor, Put put_sum) {
  __shared__ BackSigns signs;
  const float factor = scale_back(group);
  float* const total = memory + kHeldChunk / kLanes * (kLanes + 1);
  float held[kHeld];
#pragma unroll 1
  for (uint32_t run = 0, next; run < records.count; run = next) {                         // [run]
    next = run_end(records, run);                                                         // [run]
    int thread = threadIdx.x;                                                             // [run]
    forget(thread);                                                                       // [run]
    put_sum(run, next, thread / kLanes * kTile, factor);                                  // [run]
    const RecordSigns named = signs_of(records, run);                                     // [run]
    make_signs(group, named.key, named.first_element + begin, signs);                     // [run]
    transform_chunk(group.tiles_log2, group.rounds, factor, signs.second, memory, held);  // [run]
    float before[kHeldRows], *sums = total + thread * kHeldRows;                          // [run] four side by side
    const auto add = [&](int n, float sign) {
      if (n % kHeldRows == 0) {
#pragma unroll
        for (int k = 0; k < kHeldRows; ++k) before[k] = 0;
        if (run) load_four(sums + n * kThreads, before);
      }
      held[n] = fused(held[n], sign, before[n % kHeldRows]);  // -0 becomes 0, as in a sum
    };
    undo_first_turn(signs, add);                                                          // [run]
    if (next == records.count) break;                                                     // [run]
#pragma unroll
    for (int n = 0; n < kHeld; n += kHeldRows) store_four(held + n, sums + n * kThreads);  // [next run]
    __syncthreads();                                                                       // [next run]
  }
  if (T* const whole = cursor.chunk_at(begin, kHeldChunk)) {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) from_float(scale * held[n], (whole + threadIdx.x)[n * kThreads]);
  } else {
    store_crossing(cursor, begin, scale, held, memory);  // [rare]
  }
}

// Put `factor`, a power of two, times the sum of the records from <= r < to over a whole tile where it is rotated back.
template <int B, bool dithered>
ALQ_DEVICE void put_sum(const Records& records, uint32_t from, uint32_t to, const Group& group, uint32_t begin,
                        const float* levels, float factor, float* memory, uint32_t* checks) {
  float rows[kRows];
  if constexpr (kFromLanes<B> && !dithered)
    if (to - from == 1) {  // what each code stands for is scaled instead
      const WholeTile<B> tile(records, group, begin);                                        // [alone]
      const Fetched<B> now = tile.fetch(from);                                               // [alone]
      const float norm = tile.checked(from, now, checks);                                    // [alone]
      const float own = (0.0f + dequantise(norm, level_of_lane<B>(levels))) * factor;        // [alone]
#pragma unroll
      for (int row = 0; row < kRows; ++row)                                                  // [alone]
        rows[row] = from_lane<1 << B>(own, code_and_more<B>(now.words, row));                // [alone]
      put_column(rows, memory);                                                              // [alone]
      return;
    }
#pragma unroll
  for (int row = 0; row < kRows; ++row) rows[row] = 0;                                              // [summed]
  sum_whole_records<B, dithered>(records, from, to, group, begin, levels, rows, checks);            // [summed]
#pragma unroll
  for (int row = 0; row < kRows; ++row) rows[row] *= factor;                                        // [summed]
  put_column(rows, memory);                                                                         // [summed]
}

// Write scale * sum of the records to the tensors of the group, a chunk a block.
template <typename T, int B, bool dithered>
__global__ void __launch_bounds__(kThreads, 3) decode_rotated(Records records, Group group, const Tables* tables, float scale,
                                                              T* const* data, const uint32_t* ends, uint32_t tensors,
                                                              uint32_t* checks, int chunk_size) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);  // [one warp]
  __syncthreads();
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  if (can_hold(group, size)) {
    const auto put = [&](uint32_t from, uint32_t to, int start, float factor) {
      put_sum<B, dithered>(records, from, to, group, begin + start, levels, factor, memory, checks);
    };
    sum_held_chunk(records, group, begin, memory, scale, Cursor<T>{data, ends, tensors}, put);
    return;
  }
  const auto sum = [&](uint32_t from, uint32_t to, int start, float* rows) {
    sum_records<B, dithered>(records, from, to, group, begin + start, levels, rows, checks);
  };
  const auto take = [&](int start, int rest, const float* rows) {
    Cursor<T> cursor = {data, ends, tensors};
    store_tile(cursor, begin + start, rest, scale, rows);
  };
  sum_chunk(records, group, begin, size, {memory}, memory + chunk_size / kLanes * (kLanes + 1), sum, take);  // [rare]
}

// For buckets of any other size: if record r starts a run, write the sum of the run, not rotated back, to `part`,
// float32[elements]. A warp a tile.
template <int B, bool dithered>
__global__ void __launch_bounds__(kThreads) sum_run(Records records, uint32_t r, Group group, const Tables* tables,
                                                    uint32_t* checks, float* part) {
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);
  __syncthreads();
  const uint32_t begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  if (begin >= group.elements || (r > 0 && same_signs(records, r - 1))) return;
  float rows[kRows];
  sum_records<B, dithered>(records, r, run_end(records, r), group, begin, levels, rows, checks);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const uint32_t element = begin + row * kLanes + threadIdx.x % kLanes;
    if (element < group.elements) part[element] = rows[row];
  }
}

// If record r starts a run, rotate `part` back and add it to `total`, float32[elements]; write scale * total to the
// tensors of the group after the last run. Chunks as in rotate_group.
template <typename T, bool fits>
__global__ void __launch_bounds__(kThreads, fits ? 3 : 2) add_run(Records records, uint32_t r, Group group, int chunk_size, float* part,
                                                    float* total, float scale, T* const* data, const uint32_t* ends,
                                                    uint32_t tensors) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  if (r > 0 && same_signs(records, r - 1)) return;
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  const auto x = workplace<fits>(chunk, part, begin);
  if (fits)
    for (int i = threadIdx.x; i < size; i += kThreads) x[i] = part[begin + i];
  __syncthreads();
  const RecordSigns signs = signs_of(records, r);
  rotate<true, true>(x, group.bucket_size, group.rounds, signs.key, signs.first_element + begin, size);
  const bool last = run_end(records, r) == records.count;
  Cursor<T> cursor = {data, ends, tensors};
  for (int i = threadIdx.x; i < size; i += kThreads) {
    const float sum = (r ? total[begin + i] : 0.0f) + x[i];
    if (last)
      from_float(scale * sum, *cursor.at(begin + i));
    else
      total[begin + i] = sum;
  }
}

}  // namespace alq
