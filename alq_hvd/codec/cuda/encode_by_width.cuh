// Gradients to records whose blocks have a width each, once shares.cuh has shared bits out: a chunk a block of threads, in shared
// memory, as encode.cuh and encode_rotated.cuh do where they hold nothing in registers.
#pragma once

#include "encode_rotated.cuh"
#include "shares.cuh"

namespace alq {

// What a block shares besides its chunk.
struct SharedByWidth {
  double lanes[kThreads];
  float norms[kMostNorms], sent[kMostNorms];
  float levels[512], scaled_inverse_gaps[512], tree[512];
  uint32_t check;
};

// Return what is sent in place of a norm by a block that was kept with this chance.
ALQ_DEVICE float louder(float norm, int32_t chance) {
  if (chance == kWhole || !(norm > 0)) return norm;
  const float made_up = static_cast<float>(static_cast<double>(norm) * kWhole / chance);
  return made_up > kLargestNorm ? kLargestNorm : made_up;
}

// Write zeros to the rows behind the codes, which all blocks share out.
ALQ_DEVICE void fill_up(const Placing& placing, uint32_t* record) {
  const uint32_t lane = threadIdx.x % kLanes, filled = placing.places[placing.stride - 1];
  for (uint32_t row = filled + blockIdx.x * kWarps + threadIdx.x / kLanes; row < placing.rows; row += gridDim.x * kWarps)
    record[placing.codes_offset + row * kLanes + lane] = 0;
}

// Encode a chunk of `size` elements as encode_chunk does; `chances` are those with which blocks were kept.
template <bool nearest, bool gaps, typename Keep>
ALQ_DEVICE void encode_blocks(const Group& group, const TablesByWidth* tables, const Placing& placing, const int32_t* chances,
                              const Target& to, int size, Coordinates<gaps> chunk, SharedByWidth& shared, Keep keep) {
  copy_table(tables->levels, shared.levels, 512);
  copy_table(tables->scaled_inverse_gaps, shared.scaled_inverse_gaps, 512);
  copy_table(tables->tree, shared.tree, 512);
  if (threadIdx.x == 0) shared.check = 0;
  const int d = group.bucket_size, lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint32_t block_size = d > kTile ? d : kTile, tiles = block_size / kTile;
  const uint32_t blocks = (group.elements + block_size - 1) / block_size;
  for (int i = size + threadIdx.x; i < (size + d - 1) / d * d; i += kThreads) chunk[i] = 0;
  __syncthreads();

  const uint8_t* widths = reinterpret_cast<const uint8_t*>(to.record + placing.widths_offset);
  const auto quantise_of = [&](uint32_t width) {
    const uint32_t first = 1u << width;
    return make_quantise(group, shared.levels + first, shared.scaled_inverse_gaps + first, shared.tree + first,
                         tables->smallest_level[width], to.key, to.first_element, tables->dither[width], width);
  };
  uint32_t check = 0;
  const auto finish = [&](int start, bool writes, auto bucket) {
    const uint32_t block = (to.begin + start) / block_size, width = widths[block];
    uint32_t* const place = to.record + norms_offset(group) + (to.begin + start) / d;
    float norm = 0, sent = 0;
    if (width) {
      const Norm found = norm_of(group, size - start < d ? size - start : d, bucket, tables->reach[width]);
      norm = sent = found.norm;
      if (nearest) {
        const Quantise q = quantise_of(width);
        sent = projection_scale<0>(q, found.total, norm, bucket, width);
      }
      sent = louder(sent, chances[block]);
    } else {
      sent = __uint_as_float(*place);
    }
    if (!writes) return;
    shared.norms[start / d] = norm;
    shared.sent[start / d] = sent;
    if (width) *place = __float_as_uint(sent);
    check += __float_as_uint(sent);
  };
  if (d <= kTile) {
#pragma unroll 1
    for (int start = warp * d; start < size; start += kWarps * d)
      finish(start, lane == 0, BucketOfWarp<gaps>{&chunk[start + lane], d / kLanes});
  } else {
#pragma unroll 1
    for (int start = 0; start < size; start += d)
      finish(start, threadIdx.x == 0, BucketOfBlock<gaps>{{&chunk[start]}, d / kTile, shared.lanes});
  }
  __syncthreads();

  const int unit_rows = d < kTile ? d / kLanes : kRows;  // rows of one bucket, a power of two
#pragma unroll 1
  for (int first = warp * kTile; first < size; first += kWarps * kTile) {
    const int rest = size - first < kTile ? size - first : kTile;
    const uint32_t block = (to.begin + first) / block_size, tile = (to.begin + first) / kTile - block * tiles;
    const Place place = place_of(placing, to.record, placing.places, block, blocks, tiles);
    if (!place.width) {
#pragma unroll 1
      for (int i = first + lane; i < first + rest; i += kLanes) keep(i, dequantise(shared.sent[i / d], 0.0f));
      continue;
    }
    const Quantise q = quantise_of(place.width);
    const float* values = &chunk[first + lane];
    Unit unit = {0, 0, 0};
    const auto units = [&](int row) {
      if (row % unit_rows == 0) {
        const int bucket = (first + row * kLanes) / d;
        unit = make_unit(shared.norms[bucket], shared.sent[bucket], q.smallest_level);
      }
      return unit;
    };
    const auto value = [&](int row) { return values[row * Coordinates<gaps>::kRowStep]; };
    uint32_t* const words = to.record + placing.codes_offset + (place.row + tile * place.width) * kLanes;
    with_width(place.width, [&](auto w) {
      check += pack_tile<decltype(w)::bits, 4>(
          q, to.begin + first, rest, nearest, units, value,
          [&](int row, float decoded) { keep(first + row * kLanes + lane, decoded); }, words);
    });
  }
  add_from_warp(&shared.check, check);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(to.record + 7, shared.check);
}

// Encode a group whose buckets are multiples of kTile, or powers of two from 64 on; one chunk a block.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) encode_by_width(Group group, Tensors<T> tensors, const TablesByWidth* tables,
                                                               Placing placing, const int32_t* chances, StreamKey key,
                                                               uint32_t first_element, int chunk_size, uint32_t* record,
                                                               float* residual) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  __shared__ SharedByWidth shared;
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  const Target to = {key, first_element, begin, placing.codes_offset, record};
  fill_up(placing, record);
  load_chunk(tensors, begin, size, chunk);
  auto cursor = tensors.cursor();
  const auto keep = [&](int i, float decoded) {
    // Read again, for clipping has changed the chunk, and what it cut off is lost, too.
    if (residual) residual[begin + i] = lost(tensors.load(begin + i, cursor), decoded);
  };
  encode_blocks<false>(group, tables, placing, chances, to, size, Coordinates<false>{chunk}, shared, keep);
}

// The same with buckets rotated.
template <typename T, bool nearest>
__global__ void __launch_bounds__(kThreads, 3)
    encode_rotated_by_width(Group group, Tensors<T> tensors, const TablesByWidth* tables, Placing placing, const int32_t* chances,
                            StreamKey key, uint32_t first_element, int chunk_size, uint32_t* record, float* residual) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ SharedByWidth shared;
  constexpr int rounds = nearest ? 2 : 1;
  const Coordinates<true> chunk = {memory};
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size, d = group.bucket_size;
  const OuterSigns outer = {chunk, d, size, group.signs, first_element + begin};
  const Target to = {key, first_element, begin, placing.codes_offset, record};
  fill_up(placing, record);
  enter_chunk(tensors, outer, begin, size);
  rotate<false, false>(chunk, d, rounds, group.signs, first_element + begin, size);
  const auto keep = [&](int i, float decoded) {
    if (residual) chunk[i] = 0.0f + decoded;
  };
  encode_blocks<nearest>(group, tables, placing, chances, to, size, chunk, shared, keep);
  if (!residual) return;
  __syncthreads();
  rotate<true, false>(chunk, d, rounds, group.signs, first_element + begin, size);
  keep_rotated(tensors, outer, begin, size, residual);
}

}  // namespace alq
