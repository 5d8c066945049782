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

// A tile of records whose blocks have widths, and the block that it is in.
struct TileOfBlock {
  uint32_t begin, block, blocks, tiles, tile;  // the last: of those of the block

  ALQ_DEVICE const uint32_t* words(const Placing& placing, const uint32_t* record, const Place& place) const {
    return record + placing.codes_offset + (place.row + tile * place.width) * kLanes;
  }
};

ALQ_DEVICE TileOfBlock tile_of_block(const Group& group, uint32_t begin) {
  const uint32_t size = group.bucket_size > kTile ? group.bucket_size : kTile, block = begin / size;
  return {begin, block, (group.elements + size - 1) / size, size / kTile, begin / kTile - block * (size / kTile)};
}

// What is known of a record's part of a tile: one without codes where the record's widths cannot be. `expected` as of the lane.
struct Found {
  Place place;
  bool fits;
};

ALQ_DEVICE Found find_tile(const Records& records, uint32_t r, uint32_t expected, const Placing& placing,
                            const TileOfBlock& at) {
  const uint32_t lane = threadIdx.x % kLanes, *record = records.data[r], *places = placing.places + r * placing.stride;
  const bool placed = places[placing.stride - 1] != kMisplaced;
  const bool fits = all_of_warp(lane > 6 || record[lane] == (lane == 6 ? records.senders[r] : expected));
  const Place place = place_of(placing, record, places, at.block, at.blocks, at.tiles);
  return {placed ? place : Place{0, 0}, fits && placed};
}

// Add whole tiles of one norm, of records from <= r < to, to `sums`, without a branch a row.
template <bool dithered>
ALQ_DEVICE void sum_whole_by_width(const Records& records, uint32_t from, uint32_t to, const Group& group,
                                   const Placing& placing, const TablesByWidth* tables, const TileOfBlock& at,
                                   const float* levels, float* sums, uint32_t* checks) {
  const uint32_t lane = threadIdx.x % kLanes, norms = norms_offset(group), bucket = at.begin / group.bucket_size;
  const uint32_t expected = expected_of_lane(records);
  const bool has_norm = lane == 0 && at.begin % group.bucket_size == 0;
  const auto add = [&](uint32_t r) {
    const uint32_t* record = records.data[r];
    const Found found = find_tile(records, r, expected, placing, at);
    const uint32_t* words = at.words(placing, record, found.place);
    const uint32_t bits = record[norms + bucket];
    const float norm = __uint_as_float(found.fits ? bits : kNan);
    uint32_t check = has_norm ? bits : 0;
    if (at.begin == 0 && kHeaderWords + lane < norms) check += record[kHeaderWords + lane];
    if (!found.place.width && norm != 0)
#pragma unroll
      for (int row = 0; row < kRows; ++row) sums[row] += dequantise(norm, 0.0f);  // [rare]
    with_width(found.place.width, [&](auto w) {
      constexpr int B = decltype(w)::bits;
      uint32_t fetched[B];
#pragma unroll
      for (int k = 0; k < B; ++k) fetched[k] = words[k * kLanes + lane];
#pragma unroll
      for (int k = 0; k < B; ++k) check += fetched[k];
      Redrawn draws = {};
      if (dithered) draws = redrawn(group, record, at.begin + lane);
      const float* own = levels + (1 << B);
      add_whole<B, dithered, false>(fetched, norm, 0, own, dithered ? tables->dither[B] : 0, draws, sums);
    });
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, check);
  };
#pragma unroll 1
  for (uint32_t r = from; r < to; ++r)  // [record]
    add(r);                             // [record]
}

// The same for any tile of any buckets, at whatever width: copies for all widths would make the kernel twice as long.
template <bool dithered>
ALQ_DEVICE void sum_part_by_width(const Records& records, uint32_t from, uint32_t to, const Group& group,
                                  const Placing& placing, const TablesByWidth* tables, const TileOfBlock& at,
                                  const float* levels, float* sums, uint32_t* checks) {
  const uint32_t lane = threadIdx.x % kLanes, rest = group.elements - at.begin < kTile ? group.elements - at.begin : kTile;
  const uint32_t expected = expected_of_lane(records);
#pragma unroll 1
  for (uint32_t r = from; r < to; ++r) {
    const uint32_t* record = records.data[r];
    const Found found = find_tile(records, r, expected, placing, at);
    const float* norms = reinterpret_cast<const float*>(record + norms_offset(group));
    uint32_t check = sum_of_told(group, record, at.begin);
    const int width = found.place.width;
    const uint32_t* words = at.words(placing, record, found.place) + lane;
    const uint32_t needed = ((rest + kLanes - 1) / kLanes * width + 31) / 32;
    for (uint32_t k = 0; k < needed; ++k) check += words[k * kLanes];
    const float dither = dithered ? tables->dither[width] : 0;
    Redrawn draws = {};
    if (dithered) draws = redrawn(group, record, at.begin + lane);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const uint32_t i = row * kLanes + lane, index = row * width / 32;
      if (i >= rest) continue;
      const float norm = found.fits ? norms[(at.begin + i) / group.bucket_size] : __uint_as_float(kNan);
      uint32_t code = 0;
      if (width) code = shifted(words[index * kLanes], index + 1 < needed ? words[(index + 1) * kLanes] : 0, row * width % 32);
      float level = width ? levels[(1u << width) + (code & ((1u << width) - 1))] : 0.0f;
      if (dithered && width) level += dither_of(dither, draws.draw(row));
      sums[row] += dequantise(norm, level);
    }
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, check);
  }
}

// Sum the records from <= r < to over one tile into `sums`, and their words into checks[r][slot]; `levels`, shared, are those of all
// widths.
template <bool dithered>
ALQ_DEVICE void sum_by_width(const Records& records, uint32_t from, uint32_t to, const Group& group, const Placing& placing,
                             const TablesByWidth* tables, uint32_t begin, const float* levels, float* sums,
                             uint32_t* checks) {
  const TileOfBlock at = tile_of_block(group, begin);
#pragma unroll
  for (int row = 0; row < kRows; ++row) sums[row] = 0;
  if (group.elements - begin >= kTile && group.bucket_size % kTile == 0)
    sum_whole_by_width<dithered>(records, from, to, group, placing, tables, at, levels, sums, checks);
  else
    sum_part_by_width<dithered>(records, from, to, group, placing, tables, at, levels, sums, checks);  // [rare]
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
