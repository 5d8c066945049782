// Gradients to records. A block holds a chunk of the group, so every element is read once: in registers where it can
// (held.cuh), else in shared memory; there it takes the norms of the chunk's buckets, then each warp quantises and packs whole
// tiles, a lane of the tile a thread.
#pragma once

#include "encode_held.cuh"

namespace alq {

// Where the parts of a record lie, in 32-bit words; the header's first seven, and what names the signs and the draws, as far as
// norms_offset says.
struct RecordPlan {
  uint32_t codes_offset, payload_words, record_words;
  uint32_t header[7];
  uint32_t named[kRotationBytes / 4 + kDrawsWords];
};

// Write the header, with the checksum of what names signs and draws, the latter if there is any, and the zeros between norms,
// codes and the record's end; and, for an encoder with several strata, those of the elements before kStrataPeriod, which it
// shifts. One block.
__global__ void begin_record(RecordPlan plan, Group group, uint32_t* record) {
  const uint32_t norms = norms_offset(group), d = group.bucket_size, buckets = group.elements / d + (group.elements % d != 0);
  if (threadIdx.x == 0) {
    uint32_t check = 0;
    for (uint32_t i = 0; i < 7; ++i) record[i] = plan.header[i];
    for (uint32_t i = kHeaderWords; i < norms; ++i) check += record[i] = plan.named[i - kHeaderWords];
    record[7] = check;
  }
  for (uint32_t i = norms + buckets + threadIdx.x; i < plan.codes_offset; i += kThreads) record[i] = 0;
  for (uint32_t i = plan.payload_words + threadIdx.x; i < plan.record_words; i += kThreads) record[i] = 0;
  for (uint32_t i = threadIdx.x; group.strata.count > 1 && i < kStrataPeriod; i += kThreads)
    group.unshifted[i] = unshifted_stratum(group.strata, i);
}

// Everything a block shares besides its chunk.
struct Shared {
  double lanes[kThreads];
  float norms[kMostNorms], sent[kMostNorms];
  float levels[256], scaled_inverse_gaps[256], tree[256];
  uint32_t check;
};

// Encode a chunk of `size` elements, which lies in shared memory as it is quantised but for clipping;
// `keep(i, decoded)` takes the number of a coordinate, and what its receiver will see there.
template <int B, bool nearest, bool gaps, typename Keep>
ALQ_DEVICE void encode_chunk(const Group& group, const Tables* tables, const Target& to, int size, Coordinates<gaps> chunk,
                             Shared& shared, Keep keep) {  // [rare]
  copy_table(tables->levels, shared.levels, 1 << B);
  copy_table(tables->scaled_inverse_gaps, shared.scaled_inverse_gaps, 1 << B);
  copy_table(tables->tree, shared.tree, 1 << B);
  if (threadIdx.x == 0) shared.check = 0;
  const int d = group.bucket_size, lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (int i = size + threadIdx.x; i < (size + d - 1) / d * d; i += kThreads) chunk[i] = 0;
  __syncthreads();

  const Quantise q = make_quantise(group, shared.levels, shared.scaled_inverse_gaps, shared.tree, tables->smallest_level,
                                   to.key, to.first_element, group.dither, B);
  uint32_t check = 0;
  const auto finish = [&](int start, bool writes, auto bucket) {
    const Norm found = norm_of(group, size - start < d ? size - start : d, bucket, group.reach);
    const float sent = nearest ? projection_scale<B>(q, found.total, found.norm, bucket) : found.norm;
    if (!writes) return;
    shared.norms[start / d] = found.norm;
    shared.sent[start / d] = sent;
    to.record[norms_offset(group) + (to.begin + start) / d] = __float_as_uint(sent);
    check += __float_as_uint(sent);
  };
  if (d <= kTile) {
#pragma unroll 1
    for (int start = warp * d; start < size; start += kWarps * d)
      finish(start, lane == 0, BucketOfWarp<gaps>{&chunk[start + lane], d / kLanes});
  } else {
    for (int start = 0; start < size; start += d)
      finish(start, threadIdx.x == 0, BucketOfBlock<gaps>{{&chunk[start]}, d / kTile, shared.lanes});
  }
  __syncthreads();

  const int unit_rows = d < kTile ? d / kLanes : kRows;  // rows of one bucket, a power of two
#pragma unroll 1
  for (int first = warp * kTile; first < size; first += kWarps * kTile) {
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
    check += pack_tile<B>(
        q, to.begin + first, size - first < kTile ? size - first : kTile, nearest, units, value,
        [&](int row, float decoded) { keep(first + row * kLanes + lane, decoded); },
        to.record + to.codes_offset + (to.begin + first) / kTile * (B * kLanes));
  }
  add_from_warp(&shared.check, check);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(to.record + 7, shared.check);
}

// Put the coordinates that threads hold back into the chunk, after encode_held has left it to encode_chunk.
template <bool gaps>
ALQ_DEVICE void put_back(const float* held, Coordinates<gaps> chunk) {
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kHeld; ++n) chunk[n * kThreads + static_cast<int>(threadIdx.x)] = held[n];
}

// Load a chunk of any size.
template <typename T>
ALQ_DEVICE void load_chunk(const Tensors<T>& tensors, uint32_t begin, int size, float* chunk) {  // [rare]
  auto cursor = tensors.cursor();
#pragma unroll 1
  for (int first = threadIdx.x / kLanes * kTile; first < size; first += kWarps * kTile) {
    float rows[kRows], *lane = chunk + first + threadIdx.x % kLanes;
    if (load_whole(tensors, cursor, begin + first, size - first, rows)) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) lane[row * kLanes] = rows[row];
    } else {
#pragma unroll 1
      for (int i = first + threadIdx.x % kLanes; i < first + kTile && i < size; i += kLanes)
        chunk[i] = tensors.load(begin + i, cursor);
    }
  }
}

// Encode a group whose buckets are multiples of kTile, or powers of two from 64 on; one chunk a block.
template <typename T, int B>
__global__ void __launch_bounds__(kThreads, 3) encode(Group group, Tensors<T> tensors, const Tables* tables, StreamKey key,
                                                      uint32_t first_element, int chunk_size, uint32_t codes_offset,
                                                      uint32_t* record, float* residual) {
  ALQ_DYNAMIC_SHARED(float, chunk);
  __shared__ Shared shared;
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size;
  const Target to = {key, first_element, begin, codes_offset, record};
  if (can_hold(group, size)) {
    float held[kHeld];
    load_held(tensors, begin, chunk, held);
    if (encode_held<B, false>(group, tables, to, held, *reinterpret_cast<HeldShared*>(chunk), residual)) return;
    put_back(held, Coordinates<false>{chunk});  // [rare]
  } else {
    load_chunk(tensors, begin, size, chunk);  // [rare]
  }
  auto cursor = tensors.cursor();
  const auto keep = [&](int i, float decoded) {
    // Read again, for clipping has changed the chunk, and what it cut off is lost, too.
    if (residual) residual[begin + i] = lost(tensors.load(begin + i, cursor), decoded);
  };
  encode_chunk<B, false>(group, tables, to, size, Coordinates<false>{chunk}, shared, keep);  // [rare]
}

// Encode a group whose norms are known: a warp a tile; the second reading of the gradient. `kept` takes what is lost or,
// where the group is rotated, what the receiver will see before it rotates it back.
template <typename T, int B>
__global__ void __launch_bounds__(kThreads) encode_with_norms(Group group, Tensors<T> tensors, const Tables* tables,
                                                              StreamKey key, uint32_t first_element, const float* norms,
                                                              const float* sent, const float* limits,
                                                              uint32_t codes_offset, uint32_t* record, float* kept) {
  __shared__ float levels[256], gaps[256], tree[256];
  __shared__ uint32_t block_check;
  copy_table(tables->levels, levels, 1 << B);
  copy_table(tables->scaled_inverse_gaps, gaps, 1 << B);
  copy_table(tables->tree, tree, 1 << B);
  if (threadIdx.x == 0) block_check = 0;
  __syncthreads();
  const Quantise q = make_quantise(group, levels, gaps, tree, tables->smallest_level, key, first_element, group.dither, B);
  const uint32_t d = group.bucket_size, begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  uint32_t check = 0;
  if (begin < group.elements) {
    const uint32_t rest = group.elements - begin < kTile ? group.elements - begin : kTile, lane = threadIdx.x % kLanes;
    auto cursor = tensors.cursor();
    const auto bucket_of = [&](int row) { return (begin + row * kLanes + lane) / d; };
    const auto given = [&](int row) { return tensors.load(begin + row * kLanes + lane, cursor); };
    const auto value = [&](int row) {
      const float limit = limits[bucket_of(row)];
      return clamp(given(row), -limit, limit);
    };
    check = pack_tile<B>(
        q, begin, rest, group.reach > 0,
        [&](int row) { return make_unit(norms[bucket_of(row)], sent[bucket_of(row)], q.smallest_level); }, value,
        [&](int row, float decoded) {
          if (kept) kept[begin + row * kLanes + lane] = group.rounds ? 0.0f + decoded : lost(given(row), decoded);
        },
        record + codes_offset + begin / kTile * (B * kLanes));
    for (uint32_t j = (begin + d - 1) / d + lane; static_cast<uint64_t>(j) * d < begin + rest; j += kLanes) {
      const uint32_t bits = __float_as_uint(sent[j]);
      record[norms_offset(group) + j] = bits;
      check += bits;
    }
  }
  add_from_warp(&block_check, check);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(record + 7, block_check);
}

}  // namespace alq
