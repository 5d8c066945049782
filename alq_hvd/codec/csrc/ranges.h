// Ranges of a gradient, to records and back: what one thread does of a call. Ranges begin and, but for the last, end where
// buckets and tiles both do, so that no thread writes a word or a norm of another's.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels.h"

namespace alq {

// How a gradient is coded, beside the kernels that do it.
struct Coding {
  const Kernels& kernels;
  const Quantiser& quantiser;
  const Table& table;
  RecordOffsets offsets;
  const uint32_t* strata = nullptr;  // uint32[kStrataPeriod] from fill_strata; only encoders want it
};

// Error feedback is added, encoded, decoded and kept in parts of about this many elements, which stay in a cache.
constexpr int64_t kFeedbackElements = 1 << 14;

// Return the least number of elements after which buckets and tiles end together.
inline int64_t strip_of(const Quantiser& quantiser) { return std::lcm(quantiser.bucket_size, int64_t{kTile}); }

inline std::unique_ptr<float[]> scratch_for(const Quantiser& quantiser) {
  return std::unique_ptr<float[]>(new float[scratch_elements(quantiser) + 1]);
}

// Write scale * sum of the records for the elements begin <= e < end to `out`, whose first is element `begin`.
inline void decode_range(const Coding& coding, const std::vector<const uint8_t*>& records, int64_t begin, int64_t end,
                         float scale, float* out) {
  const auto& [kernels, quantiser, table, offsets, strata] = coding;
  const int count = static_cast<int>(records.size());
  if (!quantiser.rounds) {
    kernels.decode_sum(records.data(), count, begin, end, quantiser, table, offsets, scale, out - begin);
    return;
  }
  const int64_t strip = strip_of(quantiser);
  const std::unique_ptr<float[]> scratch(new float[count > 1 ? std::min(strip, end - begin) : 0]);
  kernels.decode_rotated(records.data(), count, begin, end, quantiser, table, offsets, scale, strip, scratch.get(),
                         out - begin);
}

// Write norms and codes of the elements begin <= e < end of `values` into `record`; return the sum of the words written.
inline uint32_t encode_range(const Coding& coding, const float* values, int64_t begin, int64_t end, StreamKey key,
                             uint32_t first_element, float* scratch, uint8_t* record) {
  const auto& [kernels, quantiser, table, offsets, strata] = coding;
  auto* norms = reinterpret_cast<float*>(record + offsets.norms);
  auto* words = reinterpret_cast<uint32_t*>(record + offsets.codes);
  return kernels.encode(values + begin, end - begin, quantiser, table, key, first_element + static_cast<uint32_t>(begin),
                        strata, scratch, norms + begin / quantiser.bucket_size,
                        words + begin / kTile * quantiser.bits * kLanes);
}

// The same with error feedback: `residual` is added to the values first, and takes what the record has lost of both.
inline uint32_t encode_range_with_feedback(const Coding& coding, const float* values, int64_t begin, int64_t end,
                                           StreamKey key, uint32_t first_element, float* scratch, uint8_t* record,
                                           float* residual, int64_t part = kFeedbackElements) {
  const int64_t strip = strip_of(coding.quantiser), step = (part + strip - 1) / strip * strip;
  const std::unique_ptr<float[]> decoded(new float[std::min(step, end - begin)]);
  const std::vector<const uint8_t*> own = {record};
  uint32_t check = 0;
  for (int64_t from = begin; from < end; from += step) {
    const int64_t to = std::min(from + step, end);
    for (int64_t i = from; i < to; ++i) residual[i] += values[i];
    check += encode_range(coding, residual, from, to, key, first_element, scratch, record);
    decode_range(coding, own, from, to, 1, decoded.get());
    for (int64_t i = from; i < to; ++i) residual[i] = lost(residual[i], decoded[i - from]);
  }
  return check;
}

}  // namespace alq
