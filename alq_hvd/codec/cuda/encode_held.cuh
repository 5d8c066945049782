// From the coordinates that the threads of a block hold (held.cuh) to the norms and packed codes of a record.
#pragma once

#include "held.cuh"

namespace alq {

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

// Take the norm of the bucket of this warp, and keep what its coordinates are divided by, and how strata are shifted; the chunk
// starts at `element` of the fusion group.
ALQ_DEVICE void finish_norm(const Group& group, float smallest_level, uint32_t element, HeldShared& shared) {
  const int bucket = threadIdx.x / kLanes;
  double total = 0;
  if (group.maximum_norm)
    total = folded(shared.sums[bucket], Larger());  // [largest]
  else
    total = folded(shared.sums[bucket], Add());
  const float norm = finished_norm(group, total, group.bucket_size, group.reach);
  const Unit unit = make_unit(norm, norm, smallest_level);
  const int lane = threadIdx.x % kLanes, tile = (bucket << group.tiles_log2) + lane;
  uint32_t shift = 0;
  if (group.strata.count > 1) shift = stratum_shift(group.strata, element + tile * kTile);  // [shift]
  if (lane < 1 << group.tiles_log2) shared.units[tile] = {norm, unit.reciprocal, norm, shift};
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

// Give f(n, decoded) the number of each coordinate that the thread holds, and what its code, which it has left in `shared`, says.
template <typename F>
ALQ_DEVICE void each_decoded(const HeldShared& shared, F f) {
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const uint32_t codes = shared.codes[tile][threadIdx.x / kLanes][threadIdx.x % kLanes];
    const float sent = shared.units[tile].sent;
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k)
      f(tile * kHeldRows + k, dequantise(sent, shared.entries[codes >> 8 * k & 0xffu].lower));
  }
}

// Write what was lost of the coordinates that the threads hold.
ALQ_DEVICE void keep_lost_held(const float* held, const HeldShared& shared, float* residual) {
  each_decoded(shared, [&](int n, float decoded) { residual[n * kThreads] = lost(held[n], decoded); });
}

// What the draws of the coordinates that a thread holds are made of: see draw_bits.
struct HeldDraws {
  uint32_t weyl, second;

  ALQ_DEVICE uint32_t draw(int n) const { return draw_bits(weyl + n * (kThreads * kWeylStep), second); }
};

// Leave the codes of the coordinates that the threads hold, by byte, in `shared`; in rounding to the nearest also the products of
// coordinates and levels. `together`: the rank has several strata.
template <int B, bool nearest, bool together>
ALQ_DEVICE void quantise_held(const Group& group, const Search<B>& search, const HeldDraws& draws, const float* held,
                              HeldShared& shared) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, log2 = group.tiles_log2;
  double products[kHeldRows] = {};
  uint32_t unshifted[kHeldRows] = {};  // the same for all tiles
  if (together)
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) unshifted[k] = group.unshifted[k * kThreads + threadIdx.x];
#pragma unroll
  for (int tile = 0; tile < kHeldTiles; ++tile) {
    const HeldUnit unit = shared.units[tile];
    uint32_t codes = 0;
#pragma unroll
    for (int k = 0; k < kHeldRows; ++k) {
      const int n = tile * kHeldRows + k;
      const float normalised = divide(held[n], unit.norm, unit.reciprocal, Fused());
      uint32_t draw = nearest ? 0 : draws.draw(n);
      if (together) draw = draw_bits_in(group, field_plus(group.strata, unshifted[k], unit.shift), draw);
      const uint32_t bytes = search.round(normalised, nearest ? kDraws * kDrawStep / 2 : static_cast<float>(draw));
      codes |= k ? bytes << (8 * k - 3) : bytes >> 3;
      if (nearest) products[k] = fused(static_cast<double>(held[n]), level_at(shared.levels, bytes), products[k]);
    }
    shared.codes[tile][warp][lane] = codes;
    if (nearest && (tile + 1) % (1 << log2) == 0) end_bucket(tile >> log2, products, shared);  // [bucket's end]
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
  if (warp < buckets) finish_norm(group, tables->smallest_level, to.first_element + to.begin, shared);  // [fold]
  __syncthreads();
  if (shared.unusual) return false;

  const HeldDraws draws = {weyl_number(to.key, to.first_element + to.begin + threadIdx.x),
                           opaque(to.key.second * kLastFactor)};
  if (nearest || group.strata.count == 1)
    quantise_held<B, nearest, false>(group, search, draws, held, shared);  // [alone]
  else
    quantise_held<B, false, true>(group, search, draws, held, shared);  // [together]
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
