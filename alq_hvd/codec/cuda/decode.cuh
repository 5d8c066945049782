// Records to sums. A warp takes a tile, keeps its 32 sums a thread in registers, and adds all records before it writes.
#pragma once

#include "encode.cuh"

namespace alq {

constexpr uint32_t kHeaderDiffers = 1, kChecksumDiffers = 2;

// The records of `count` senders. `expected` is what their headers must say, but for word 6, the sender.
struct Records {
  const uint32_t* const* data;
  const uint32_t* senders;
  uint32_t count, codes_offset;
  uint32_t expected[6];
};

// Return whether the header of record r is the expected one.
ALQ_DEVICE bool header_fits(const Records& records, uint32_t r) {
  bool fits = records.data[r][6] == records.senders[r];
  for (int i = 0; i < 6; ++i) fits = fits && records.data[r][i] == records.expected[i];
  return fits;
}

// Add record r to the 32 elements of this thread's lane of the tile that starts at `begin`; rows past the end of the group
// add nothing. A record with a wrong header adds NaN. Return the sum of the words read.
template <int B>
ALQ_DEVICE uint32_t add_record(const Records& records, uint32_t r, const Group& group, uint32_t begin, const float* levels,
                               float* sums) {
  const uint32_t* record = records.data[r];
  const uint32_t lane = threadIdx.x % kLanes, rest = group.elements - begin < kTile ? group.elements - begin : kTile;
  const uint32_t needed = ((rest + kLanes - 1) / kLanes * B + 31) / 32;
  const uint32_t* words = record + records.codes_offset + begin / kTile * (B * kLanes) + lane;
  const float* norms = reinterpret_cast<const float*>(record + norms_offset(group));
  const uint32_t d = group.bucket_size;
  const bool one_norm = d % kTile == 0, fits = header_fits(records, r);
  const float tile_norm = norms[begin / d];
  uint32_t word = words[0], sum = word;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int shift = row * B % 32;
    const uint32_t i = row * kLanes + lane;
    uint32_t code = word >> shift;
    if (shift + B >= 32 && row + 1 < kRows) {
      const uint32_t index = row * B / 32 + 1;
      word = index < needed ? words[index * kLanes] : 0;
      sum += word;
      if (shift + B > 32) code |= word << (32 - shift);
    }
    if (i < rest) {
      const float norm = !fits ? __uint_as_float(kNan) : one_norm ? tile_norm : norms[(begin + i) / d];
      sums[row] += dequantise(norm, levels[code & ((1u << B) - 1)]);
    }
  }
  for (uint32_t j = (begin + d - 1) / d + lane; static_cast<uint64_t>(j) * d < begin + rest; j += kLanes)
    sum += __float_as_uint(norms[j]);
  if (begin == 0 && 8 + lane < norms_offset(group)) sum += record[8 + lane];
  return sum;
}

// Sums of a record's words are kept in kSlots places, so that blocks rarely wait for each other.
constexpr uint32_t kSlots = 64;

// Sum the records from <= r < to over one tile into `sums`, and their words into checks[r][slot].
template <int B>
ALQ_DEVICE void sum_records(const Records& records, uint32_t from, uint32_t to, const Group& group, uint32_t begin,
                            const float* levels, float* sums, uint32_t* checks) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) sums[row] = 0;
  for (uint32_t r = from; r < to; ++r)
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, add_record<B>(records, r, group, begin, levels, sums));
}

// Write scale * sum of the records to the tensors of the group.
template <typename T, int B>
__global__ void __launch_bounds__(kThreads) decode_sum(Records records, Group group, const Tables* tables, float scale, T* const* data,
                           const uint32_t* ends, uint32_t tensors, uint32_t* checks) {
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);
  __syncthreads();
  const uint32_t begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  if (begin >= group.elements) return;
  float sums[kRows];
  sum_records<B>(records, 0, records.count, group, begin, levels, sums, checks);
  Cursor<T> cursor = {data, ends, tensors};
  store_tile(cursor, begin, group.elements - begin < kTile ? group.elements - begin : kTile, scale, sums);
}

// The middle of a two-shot: decode and sum `records`, and encode the sum again, a chunk a block, without leaving the chip.
template <int B, int Again>
__global__ void __launch_bounds__(kThreads, 3) recode(Records records, Group group, const Tables* tables, uint32_t* checks,
                       Group again, const Tables* tables_again, StreamKey key, uint32_t first_element, int chunk_size,
                       uint32_t codes_offset, uint32_t* record) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  __shared__ Shared shared;
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);
  __syncthreads();
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  for (int tile = threadIdx.x / kLanes; tile * kTile < size; tile += kWarps) {
    float sums[kRows];
    sum_records<B>(records, 0, records.count, group, begin + tile * kTile, levels, sums, checks);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int i = tile * kTile + row * kLanes + threadIdx.x % kLanes;
      if (i < size) chunk[i] = sums[row];
    }
  }
  __syncthreads();
  encode_chunk<Again, false>(again, tables_again, key, first_element, begin, size, Coordinates<false>{chunk}, shared,
                             codes_offset, record, [](int, float) {});
}

// Compare the words that were read with each record's checksum, keep what is wrong in *status, and clear `checks`. One block.
__global__ void finish_decode(Records records, uint32_t* checks, uint32_t* status) {
  for (uint32_t r = threadIdx.x; r < records.count; r += kThreads) {
    if (!header_fits(records, r)) atomicOr(status, kHeaderDiffers);
    uint32_t sum = 0;
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      sum += checks[r * kSlots + slot];
      checks[r * kSlots + slot] = 0;
    }
    if (sum != records.data[r][7]) atomicOr(status, kChecksumDiffers);
  }
}

}  // namespace alq
