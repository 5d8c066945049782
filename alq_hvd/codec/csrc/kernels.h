// Interface of the CPU kernels. kernels_impl.h is compiled once for each instruction set; native.cpp picks at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantise.h"
#include "rotation.h"
#include "strata.h"

namespace alq {

struct Quantiser {
  int bits;
  int64_t bucket_size;
  bool maximum_norm;  // largest magnitude instead of the Euclidean length
  double clip;        // standard deviations; 0 does not clip
  int rounds = 0;     // of the rotation; 0 does not rotate
  double reach = 0;   // standard deviations that 1 stands for, in rounding to the nearest; 0 rounds stochastically
  StreamKey signs = {0, 0};
  Strata strata = {};
  bool knows_norms = false;  // they stand where they would be written
};

// A level table padded to 2^bits entries: levels with +infinity, which no coordinate reaches, inverse gaps with zero.
struct Table {
  int count;
  float smallest_level;  // magnitude of the smallest level that is not zero
  alignas(64) float levels[256];
  alignas(64) float scaled_inverse_gaps[256];  // number of values of a draw / gap
  alignas(64) float decoded[256];  // levels by code; codes beyond the table decode to its last level
  float dither = 0;  // what a draw, less its mean, is multiplied by before it is added to its level; 0 adds nothing
  // The levels as a binary search meets them: depth t holds 2^t of them from index 2^t on.
  alignas(64) float tree[256];
};

// Moments of one bucket, float64: norm, sum of r, sum of squared deviations from the bucket's mean, sum of r * r.
struct BucketMoments {
  double norm, sum, deviations, squares;
};

struct Histogram {
  int octaves, bins_per_octave_log2, weight_exponent;
  double* mass;
  double* first_moment;
};

// A dithered record names its draws in so many bytes before its norms, behind what names its signs.
constexpr int kDrawsBytes = 16;

// Where the parts of a record lie; `draws` and `signs`, which may be missing, are seen from its start, and the others from
// the element `skipped`, where decoding starts.
struct RecordOffsets {
  int64_t norms, codes, signs = 0, draws = 0, skipped = 0;
};

// A record whose blocks have a width each, and the rows of 32 words before the codes of each block.
struct PlacedRecord {
  const uint8_t* bytes;
  const uint8_t* widths;
  const uint32_t* rows;
};

// Return how many coordinates share a width, where widths differ.
inline int64_t block_size_of(int64_t bucket_size) { return bucket_size > kTile ? bucket_size : kTile; }

struct Kernels {
  const char* name;
  // Write norms float32[buckets] and packed codes of `elements` values; `first_element` offsets the random counter.
  // `strata` uint32[kStrataPeriod] is what fill_strata wrote. `scratch` float32[scratch_elements(quantiser)] holds buckets
  // that are not quantised as they are. Return the sum of all words written, norms included.
  uint32_t (*encode)(const float* values, int64_t elements, const Quantiser&, const Table&, StreamKey, uint32_t first_element,
                 const uint32_t* strata, float* scratch, float* norms, uint32_t* words);
  // Write the strata of kStrataPeriod elements, before they are shifted, to the bits of a draw above its own.
  void (*fill_strata)(const Strata&, uint32_t* strata);
  // Write scale * sum over records, in order, of norm * level, for the elements begin <= e < end; begin is a multiple
  // of kTile.
  void (*decode_sum)(const uint8_t* const* records, int count, int64_t begin, int64_t end, const Quantiser&,
                     const Table&, RecordOffsets, float scale, float* out);
  // The same for rotated buckets. Whole buckets are wanted, too: begin is a multiple of `strip`, the least number that both
  // kTile and the bucket size divide, for which `scratch` has room; it is used where records differ in their signs.
  void (*decode_rotated)(const uint8_t* const* records, int count, int64_t begin, int64_t end, const Quantiser&,
                         const Table&, RecordOffsets, float scale, int64_t strip, float* scratch, float* out);
  // Write the energy of each bucket, by which bits are shared out: squared norms, which are written, too, or, of rotated
  // buckets, squared lengths.
  void (*energies)(const float* values, int64_t elements, const Quantiser&, float* scratch, float* norms, double* energies);
  // As decode_sum, or decode_rotated, of blocks that have a width each. `by_width` are tables by bits. begin is a multiple of
  // the block, and `scratch` has room for one.
  void (*decode_by_width)(const PlacedRecord* records, int count, int64_t begin, int64_t end, const Quantiser&,
                          const Table* by_width, RecordOffsets, float scale, float* scratch, float* out);
  // Add normalised coordinates to the histogram and write one BucketMoments a bucket.
  void (*statistics)(const float* values, int64_t elements, const Quantiser&, const Histogram&, float* scratch,
                     BucketMoments*);
};

// Return how many floats of scratch an encoder needs: the bucket as it is quantised, and the levels chosen for it.
inline int64_t scratch_elements(const Quantiser& quantiser) {
  const bool changed = quantiser.clip > 0 || quantiser.rounds > 0;
  return quantiser.bucket_size * ((changed ? 1 : 0) + (quantiser.reach > 0 ? 1 : 0));
}

const Kernels& baseline_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace alq
