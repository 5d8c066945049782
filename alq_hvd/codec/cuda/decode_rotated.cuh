// Records of rotated buckets to sums. Neighbours of the same signs, a run, are added first and rotated back once.
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

// Return whether records r and r + 1 belong to one run.
ALQ_DEVICE bool same_signs(const Records& records, uint32_t r) {
  bool same = true;
  for (int i = 8; i < 12; ++i) same = same && records.data[r][i] == records.data[r + 1][i];
  return same;
}

// Return the end of the run that record r starts.
ALQ_DEVICE uint32_t run_end(const Records& records, uint32_t r) {
  uint32_t end = r + 1;
  while (end < records.count && same_signs(records, end - 1)) ++end;
  return end;
}

// Decode and sum the chunk of `size` elements from `begin` on, for buckets as encode_rotated takes them. `chunk` and, where
// there is more than one run, `total` are shared; `sum(from, to, start, rows)` adds records over a tile, and `take(start, rest, rows)`
// gets this thread's lane of each tile.
template <typename Sum, typename Take>
ALQ_DEVICE void sum_chunk(const Records& records, const Group& group, uint32_t begin, int size, Coordinates<true> chunk,
                          float* total, Sum sum, Take take) {
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
    const OuterSigns outer = {chunk, static_cast<int>(group.bucket_size), size, signs.key, signs.first_element + begin};
    rotate<true, false>(chunk, group.bucket_size, group.rounds, signs.key, signs.first_element + begin, size);
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

// Write scale * sum of the records to the tensors of the group, a chunk a block.
template <typename T, int B, bool dithered>
__global__ void __launch_bounds__(kThreads, 3) decode_rotated(Records records, Group group, const Tables* tables, float scale,
                                                              T* const* data, const uint32_t* ends, uint32_t tensors,
                                                              uint32_t* checks, int chunk_size) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);
  __syncthreads();
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  sum_chunk(
      records, group, begin, size, {memory}, memory + chunk_size / kLanes * (kLanes + 1),
      [&](uint32_t from, uint32_t to, int start, float* rows) {
        sum_records<B, dithered>(records, from, to, group, begin + start, levels, rows, checks);
      },
      [&](int start, int rest, const float* rows) {
        Cursor<T> cursor = {data, ends, tensors};
        store_tile(cursor, begin + start, rest, scale, rows);
      });
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
