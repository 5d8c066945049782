// Records whose blocks have a width each to sums: decode.cuh and decode_rotated.cuh, with a width a record and tile.
#pragma once

#include "decode_rotated.cuh"
#include "encode_by_width.cuh"

namespace alq {

// Find the places of the blocks of records, one a block of threads, and add the words of their widths to `checks`.
__global__ void __launch_bounds__(kThreads) place_records(Records records, Group group, Placing placing, uint32_t* checks) {
  __shared__ uint64_t warps[kWarps];
  const uint32_t r = blockIdx.x;
  const uint32_t sum =
      place_blocks(placing, blocks_of(group), records.data[r], placing.places + r * placing.stride, warps);
  if (threadIdx.x == 0) checks[r * kSlots] += sum;
}

// Add what a record has of a tile that has no codes: NaN in broken buckets.
ALQ_DEVICE void add_silent(const Group& group, const uint32_t* record, bool fits, uint32_t begin, float* sums) {
  const uint32_t lane = threadIdx.x % kLanes, rest = group.elements - begin < kTile ? group.elements - begin : kTile;
  const uint32_t d = group.bucket_size, norms = norms_offset(group);
  const float tile_norm = fits ? __uint_as_float(record[norms + begin / d]) : __uint_as_float(kNan);
  if (d % kTile == 0 && tile_norm == 0) return;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const uint32_t i = row * kLanes + lane;
    if (i < rest)
      sums[row] += dequantise(d % kTile && fits ? __uint_as_float(record[norms + (begin + i) / d]) : tile_norm, 0.0f);
  }
}

// Sum the records from <= r < to over one tile into `sums`, and their words into checks[r][slot]; `levels`, shared, are those of all
// widths.
template <bool dithered>
ALQ_DEVICE void sum_by_width(const Records& records, uint32_t from, uint32_t to, const Group& group, const Placing& placing,
                             const TablesByWidth* tables, uint32_t begin, const float* levels, float* sums,
                             uint32_t* checks) {
  const uint32_t lane = threadIdx.x % kLanes, d = group.bucket_size, block_size = d > kTile ? d : kTile;
  const uint32_t blocks = (group.elements + block_size - 1) / block_size, tiles = block_size / kTile;
  const uint32_t block = begin / block_size, tile = begin / kTile - block * tiles;
  const bool whole = group.elements - begin >= kTile && d % kTile == 0;
#pragma unroll
  for (int row = 0; row < kRows; ++row) sums[row] = 0;
#pragma unroll 1
  for (uint32_t r = from; r < to; ++r) {  // [record]
    const uint32_t* record = records.data[r];
    const uint32_t* places = placing.places + r * placing.stride;
    const bool placed = places[placing.stride - 1] != kMisplaced;
    const uint32_t expected = lane < 6 ? records.expected[lane] : records.senders[r];
    const bool fits = all_of_warp(lane > 6 || record[lane] == expected) && placed;
    Place place = place_of(placing, record, places, block, blocks, tiles);
    if (!placed) place = {0, 0};
    const uint32_t* words = record + placing.codes_offset + (place.row + tile * place.width) * kLanes;
    uint32_t check = sum_of_told(group, record, begin);
    if (!place.width) add_silent(group, record, fits, begin, sums);
    with_width(place.width, [&](auto w) {
      constexpr int B = decltype(w)::bits;
      const float dither = dithered ? tables->dither[B] : 0;
      const float* own = levels + (1 << B);
      if (whole) {
        uint32_t fetched[B];
#pragma unroll
        for (int k = 0; k < B; ++k) fetched[k] = words[k * kLanes + lane];
#pragma unroll
        for (int k = 0; k < B; ++k) check += fetched[k];
        const float norm = fits ? __uint_as_float(record[norms_offset(group) + begin / d]) : __uint_as_float(kNan);
        Redrawn draws = {};
        if (dithered) draws = redrawn(group, record, begin + lane);
        add_whole<B, dithered>(fetched, norm, level_of_lane<B>(own), own, dither, draws, sums);
      } else {
        check += add_codes<B, dithered>(group, record, words, fits, begin, own, dither, sums);  // [rare]
      }
    });
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, check);
  }
}

// Write scale * sum of the records to the tensors of the group, a tile a warp.
template <typename T, bool dithered>
__global__ void __launch_bounds__(kThreads, 3)
    decode_by_width(Records records, Group group, const TablesByWidth* tables, Placing placing, float scale, T* const* data,
                    const uint32_t* ends, uint32_t tensors, uint32_t* checks) {
  __shared__ float levels[512];
  copy_table(tables->decoded, levels, 512);
  __syncthreads();
  const uint32_t begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  if (begin >= group.elements) return;
  float sums[kRows];
  sum_by_width<dithered>(records, 0, records.count, group, placing, tables, begin, levels, sums, checks);
  Cursor<T> cursor = {data, ends, tensors};
  store_tile(cursor, begin, group.elements - begin < kTile ? group.elements - begin : kTile, scale, sums);
}

// The same with buckets rotated back, a chunk a block.
template <typename T, bool dithered>
__global__ void __launch_bounds__(kThreads, 3)
    decode_rotated_by_width(Records records, Group group, const TablesByWidth* tables, Placing placing, float scale,
                            T* const* data, const uint32_t* ends, uint32_t tensors, uint32_t* checks, int chunk_size) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ float levels[512];
  copy_table(tables->decoded, levels, 512);
  __syncthreads();
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  sum_chunk(
      records, group, begin, size, {memory}, memory + chunk_size / kLanes * (kLanes + 1),
      [&](uint32_t from, uint32_t to, int start, float* rows) {
        sum_by_width<dithered>(records, from, to, group, placing, tables, begin + start, levels, rows, checks);
      },
      [&](int start, int rest, const float* rows) {
        Cursor<T> cursor = {data, ends, tensors};
        store_tile(cursor, begin + start, rest, scale, rows);
      });
}

}  // namespace alq
