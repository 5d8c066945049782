// Records to sums. A warp takes a tile, keeps its 32 sums a thread in registers, and adds all records before it writes.
#pragma once

#include "shares.cuh"

namespace alq {

constexpr uint32_t kHeaderDiffers = 1, kChecksumDiffers = 2, kWidthsDiffer = 4;

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

// Return the word that this thread's lane expects of a header, of the first six.
ALQ_DEVICE uint32_t expected_of_lane(const Records& records) {
  uint32_t expected = 0;
#pragma unroll
  for (int i = 0; i < 6; ++i) expected = threadIdx.x % kLanes == i ? records.expected[i] : expected;
  return expected;
}

// What the draws of a thread's lane of a tile of a dithered record are made of again: see draw_bits.
struct Redrawn {
  uint32_t weyl, second;

  ALQ_DEVICE uint32_t draw(int row) const { return draw_bits(weyl + row * (kLanes * kWeylStep), second); }
};

// Return what they are made of for the lane that starts at `element` of the record.
ALQ_DEVICE Redrawn redrawn(const Group& group, const uint32_t* record, uint32_t element) {
  const uint32_t* named = record + norms_offset(group) - kDrawsWords;
  const StreamKey key = {named[0], named[1]};
  return {weyl_number(key, named[2] + element), key.second * kLastFactor};
}

// Add the codes of a tile, which are at `words`, to the 32 elements of this thread's lane of it; it starts at `begin`, and rows
// past the end of the group add nothing. Where the record does not fit, add NaN. Return the sum of the words read.
template <int B, bool dithered>
ALQ_DEVICE uint32_t add_codes(const Group& group, const uint32_t* record, const uint32_t* words, bool fits, uint32_t begin,
                              const float* levels, float dither, float* sums) {
  const uint32_t lane = threadIdx.x % kLanes, rest = group.elements - begin < kTile ? group.elements - begin : kTile;
  const uint32_t needed = ((rest + kLanes - 1) / kLanes * B + 31) / 32;
  const float* norms = reinterpret_cast<const float*>(record + norms_offset(group));
  const uint32_t d = group.bucket_size;
  const bool one_norm = d % kTile == 0;
  const float tile_norm = norms[begin / d];
  Redrawn draws = {};
  if (dithered) draws = redrawn(group, record, begin + lane);
  uint32_t word = words[lane], sum = word;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const int shift = row * B % 32;
    const uint32_t i = row * kLanes + lane;
    uint32_t code = word >> shift;
    if (shift + B >= 32 && row + 1 < kRows) {
      const uint32_t index = row * B / 32 + 1;
      word = index < needed ? words[index * kLanes + lane] : 0;
      sum += word;
      if (shift + B > 32) code |= word << (32 - shift);
    }
    if (i < rest) {
      const float norm = !fits ? __uint_as_float(kNan) : one_norm ? tile_norm : norms[(begin + i) / d];
      float level = levels[code & ((1u << B) - 1)];
      if (dithered) level += dither_of(dither, draws.draw(row));
      sums[row] += dequantise(norm, level);
    }
  }
  return sum;
}

// Return this thread's part of the sum of the words that tell of the tile at `begin`: norms that start there and, once, what names
// signs and draws.
ALQ_DEVICE uint32_t sum_of_told(const Group& group, const uint32_t* record, uint32_t begin) {
  const uint32_t lane = threadIdx.x % kLanes, rest = group.elements - begin < kTile ? group.elements - begin : kTile;
  const uint32_t d = group.bucket_size, norms = norms_offset(group);
  uint32_t sum = 0;
  for (uint32_t j = (begin + d - 1) / d + lane; static_cast<uint64_t>(j) * d < begin + rest; j += kLanes)
    sum += record[norms + j];
  if (begin == 0 && kHeaderWords + lane < norms) sum += record[kHeaderWords + lane];
  return sum;
}

// Sums of a record's words are kept in kSlots places, so that blocks rarely wait for each other.
constexpr uint32_t kSlots = 64;

// What a thread reads of a record for a whole tile of one norm.
template <int B>
struct Fetched {
  uint32_t words[B];
  float norm;
  bool fits;  // its part of the header
};

// Return the part of a table of levels that a thread keeps: products with a norm are fetched from lanes by code, as far as a warp
// has lanes for them.
template <int B>
constexpr bool kFromLanes = 1 << B <= kLanes;
template <int B>
ALQ_DEVICE float level_of_lane(const float* levels) {
  return levels[kFromLanes<B> ? threadIdx.x % kLanes % (1u << B) : 0];
}

// Return the code of a row of this thread's lane of a whole tile, and bits above it.
template <int B>
ALQ_DEVICE uint32_t code_and_more(const uint32_t* words, int row) {
  const int shift = row * B % 32, index = row * B / 32;
  const uint32_t code = words[index] >> shift;
  return shift + B > 32 ? code | words[index + 1 < B ? index + 1 : index] << (32 - shift) : code;
}

// Add the codes of a whole tile of one norm, without a branch a row; `level` is what level_of_lane gave. In dithered records no two
// products are alike, and levels are fetched; so they are without `lanes`, in code that some lanes might not reach, for all a
// compiler knows.
template <int B, bool dithered, bool lanes = kFromLanes<B>>
ALQ_DEVICE void add_whole(const uint32_t* words, float norm, float level, const float* levels, float dither,
                          const Redrawn& draws, float* sums) {
  const float own = dithered ? level : dequantise(norm, level);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const uint32_t code = code_and_more<B>(words, row);
    float chosen = 0;
    if constexpr (lanes)
      chosen = from_lane<1 << B>(own, code);
    else
      chosen = levels[code % (1u << B)];
    if (dithered) chosen += dither_of(dither, draws.draw(row));
    sums[row] += lanes && !dithered ? chosen : dequantise(norm, chosen);
  }
}

// A whole tile of one norm, in whichever record: its words and its norm are fetched, and the header is compared by as many lanes
// as it has words.
template <int B>
struct WholeTile {
  const Records& records;
  uint32_t begin, norm_at, first_word, expected;
  bool has_norm;   // of this tile's words, and this thread takes it
  uint32_t norms;  // where they start

  ALQ_DEVICE WholeTile(const Records& from, const Group& group, uint32_t first)
      : records(from),
        begin(first),
        norm_at(norms_offset(group) + first / group.bucket_size),
        first_word(from.codes_offset + first / kTile * (B * kLanes) + threadIdx.x % kLanes),
        expected(expected_of_lane(from)),
        has_norm(threadIdx.x % kLanes == 0 && first % group.bucket_size == 0),
        norms(norms_offset(group)) {}

  ALQ_DEVICE Fetched<B> fetch(uint32_t r) const {
    const uint32_t *record = records.data[r], lane = threadIdx.x % kLanes;
    Fetched<B> fetched;
#pragma unroll
    for (int k = 0; k < B; ++k) fetched.words[k] = record[first_word + k * kLanes];
    fetched.norm = __uint_as_float(record[norm_at]);
    fetched.fits = lane > 6 || record[lane] == (lane == 6 ? records.senders[r] : expected);
    return fetched;
  }

  // Add the words that were fetched to checks[r][slot], and return the norm: NaN where the record does not fit.
  ALQ_DEVICE float checked(uint32_t r, const Fetched<B>& now, uint32_t* checks) const {
    const uint32_t lane = threadIdx.x % kLanes;
    uint32_t check = has_norm ? __float_as_uint(now.norm) : 0;
#pragma unroll
    for (int k = 0; k < B; ++k) check += now.words[k];
    if (begin == 0 && kHeaderWords + lane < norms) check += records.data[r][kHeaderWords + lane];
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, check);
    return all_of_warp(now.fits) ? now.norm : __uint_as_float(kNan);
  }
};

// Sum the records from <= r < to over a whole tile of one norm, without a branch a row: the words of a record are on their
// way while the one before is added.
template <int B, bool dithered>
ALQ_DEVICE void sum_whole_records(const Records& records, uint32_t from, uint32_t to, const Group& group, uint32_t begin,
                                  const float* levels, float* sums, uint32_t* checks) {
  const WholeTile<B> tile(records, group, begin);
  const float level = level_of_lane<B>(levels);
  const auto add = [&](uint32_t r, const Fetched<B>& now) {
    const float norm = tile.checked(r, now, checks);
    Redrawn draws = {};
    if (dithered) draws = redrawn(group, records.data[r], begin + threadIdx.x % kLanes);
    add_whole<B, dithered>(now.words, norm, level, levels, group.dither, draws, sums);
  };
  Fetched<B> next = tile.fetch(from);
#pragma unroll 1
  for (uint32_t r = from; r < to; ++r) {       // [record]
    const Fetched<B> now = next;               // [record]
    if (r + 1 < to) next = tile.fetch(r + 1);  // [record]
    add(r, now);                               // [record]
  }
}

// Sum the records from <= r < to, at least one, over one tile into `sums`, and their words into checks[r][slot].
template <int B, bool dithered>
ALQ_DEVICE void sum_records(const Records& records, uint32_t from, uint32_t to, const Group& group, uint32_t begin,
                            const float* levels, float* sums, uint32_t* checks) {
#pragma unroll
  for (int row = 0; row < kRows; ++row) sums[row] = 0;
  if (group.elements - begin >= kTile && group.bucket_size % kTile == 0) {
    sum_whole_records<B, dithered>(records, from, to, group, begin, levels, sums, checks);
    return;
  }
  const uint32_t offset = records.codes_offset + begin / kTile * (B * kLanes);  // [rare]
  for (uint32_t r = from; r < to; ++r) {                                         // [rare]
    const uint32_t* record = records.data[r];                                    // [rare]
    const uint32_t check =
        add_codes<B, dithered>(group, record, record + offset, header_fits(records, r), begin, levels, group.dither, sums);  // [rare]
    add_from_warp(checks + r * kSlots + blockIdx.x % kSlots, check + sum_of_told(group, record, begin));  // [rare]
  }
}

// Write scale * sum of the records to the tensors of the group.
template <typename T, int B, bool dithered>
__global__ void __launch_bounds__(kThreads, dithered || B > 4 ? 3 : 4) decode_sum(Records records, Group group, const Tables* tables,
                                                                         float scale, T* const* data, const uint32_t* ends,
                                                                         uint32_t tensors, uint32_t* checks) {
  __shared__ float levels[256];
  copy_table(tables->decoded, levels, 1 << B);
  __syncthreads();
  const uint32_t begin = (blockIdx.x * kWarps + threadIdx.x / kLanes) * kTile;
  if (begin >= group.elements) return;
  float sums[kRows];
  sum_records<B, dithered>(records, 0, records.count, group, begin, levels, sums, checks);
  Cursor<T> cursor = {data, ends, tensors};
  store_tile(cursor, begin, group.elements - begin < kTile ? group.elements - begin : kTile, scale, sums);
}

// The middle of a two-shot: decode and sum `records`, which are not dithered, and encode the sum again, a chunk a block, without leaving the chip.
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
    sum_records<B, false>(records, 0, records.count, group, begin + tile * kTile, levels, sums, checks);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int i = tile * kTile + row * kLanes + threadIdx.x % kLanes;
      if (i < size) chunk[i] = sums[row];
    }
  }
  __syncthreads();
  const Target to = {key, first_element, begin, codes_offset, record};
  if (can_hold(again, size)) {
    float held[kHeld];
#pragma unroll
    for (int n = 0; n < kHeld; ++n) held[n] = chunk[n * kThreads + static_cast<int>(threadIdx.x)];
    __syncthreads();
    if (encode_held<Again, false>(again, tables_again, to, held, *reinterpret_cast<HeldShared*>(chunk), nullptr)) return;
    put_back(held, Coordinates<false>{chunk});  // [rare]
    __syncthreads();
  }
  const auto keep = [](int, float) {};
  encode_chunk<Again, false>(again, tables_again, to, size, Coordinates<false>{chunk}, shared, keep);  // [rare]
}

// Compare the words that were read with each record's checksum, keep what is wrong in *status, and clear `checks`; a record a
// warp. Records whose blocks have widths that cannot be were not read; placing.stride is 0 where there are none. One block.
__global__ void finish_decode(Records records, Placing placing, uint32_t* checks, uint32_t* status) {
  const uint32_t lane = threadIdx.x % kLanes;
#pragma unroll 1
  for (uint32_t r = threadIdx.x / kLanes; r < records.count; r += kWarps) {
    uint32_t *slots = checks + r * kSlots + lane, sum = 0;
#pragma unroll
    for (uint32_t k = 0; k < kSlots / kLanes; ++k) sum += slots[k * kLanes];
#pragma unroll
    for (uint32_t k = 0; k < kSlots / kLanes; ++k) slots[k * kLanes] = 0;
    const uint32_t* record = records.data[r];
    const uint32_t expected = lane == 6 ? records.senders[r] : expected_of_lane(records);
    const bool fits = all_of_warp(lane > 6 || record[lane] == expected);
    const bool misplaced = placing.stride && placing.places[(r + 1) * placing.stride - 1] == kMisplaced;
    sum = sum_of_warp(sum);
    if (lane) continue;
    const uint32_t wrong = misplaced ? kWidthsDiffer : sum != record[7] ? kChecksumDiffers : 0;
    if (wrong || !fits) atomicOr(status, wrong | (fits ? 0 : kHeaderDiffers));
  }
}

}  // namespace alq
