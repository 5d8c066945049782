// Gradients to records whose blocks have a width each, and back: what one call does, in three passes.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "parallel.h"
#include "ranges.h"
#include "widths.h"

namespace alq {

// How such a gradient is coded, beside the kernels that do it.
struct CodingByWidth {
  const Kernels& kernels;
  const Quantiser* quantisers;  // by width, 0 to 8; that of 0 serves where widths do not matter
  const Table* tables;
  RecordOffsets offsets;
  int64_t widths_offset, rows;  // of the codes' area
  int threads = 1;
  const uint32_t* strata = nullptr;  // uint32[kStrataPeriod] from fill_strata; only encoders want it
};

// Return the rows before the codes of each block, uint32[count].
inline std::vector<uint32_t> placed_rows(const uint8_t* widths, const WidthBlocks& blocks, int64_t rows) {
  std::vector<uint32_t> placed(blocks.count());
  int64_t sum = 0;
  for (int64_t block = 0; block < blocks.count(); ++block) {
    placed[block] = static_cast<uint32_t>(sum);
    if (widths[block] > 8) throw std::invalid_argument("widths must be 0 to 8");
    sum += blocks.rows_of(block, widths[block]);
  }
  if (sum > rows) throw std::invalid_argument("codes of these widths are longer than the record");
  return placed;
}

inline void decode_part(const CodingByWidth& coding, const std::vector<PlacedRecord>& records, int64_t begin, int64_t end,
                        float scale, float* out) {
  const Quantiser& quantiser = coding.quantisers[0];
  const int64_t room = std::min(block_size_of(quantiser.bucket_size), end - begin);
  const std::unique_ptr<float[]> scratch(new float[records.size() > 1 && quantiser.rounds ? room : 0]);
  coding.kernels.decode_by_width(records.data(), static_cast<int>(records.size()), begin, end, quantiser, coding.tables,
                                 coding.offsets, scale, scratch.get(), out - begin);
}

// Write scale * sum of the records, each `elements` long, to `out`.
inline void decode_by_width(const CodingByWidth& coding, const std::vector<const uint8_t*>& records, int64_t elements,
                            float scale, float* out) {
  const WidthBlocks blocks = {elements, block_size_of(coding.quantisers[0].bucket_size)};
  std::vector<std::vector<uint32_t>> rows;
  std::vector<PlacedRecord> placed;
  for (const uint8_t* bytes : records) {
    const uint8_t* widths = bytes + coding.widths_offset;
    rows.push_back(placed_rows(widths, blocks, coding.rows));
    placed.push_back({bytes, widths, rows.back().data()});
  }
  parallel_ranges(coding.threads, elements, blocks.size, [&](int64_t begin, int64_t end, int) {
    decode_part(coding, placed, begin, end, scale, out + begin);
  });
}

// Write norms and codes of the blocks first <= block < stop, which have one width and one chance of being kept; return the
// sum of the words written.
inline uint32_t encode_blocks(const CodingByWidth& coding, const float* values, const WidthBlocks& blocks, int64_t first,
                              int64_t stop, int width, int64_t chance, const double* energies, const uint32_t* rows,
                              StreamKey key, uint32_t first_element, float* scratch, uint8_t* record) {
  const Quantiser& quantiser = coding.quantisers[width];
  const int64_t begin = first * blocks.size, end = std::min(stop * blocks.size, blocks.elements);
  const int64_t bucket = begin / quantiser.bucket_size;
  const int64_t buckets = (end + quantiser.bucket_size - 1) / quantiser.bucket_size - bucket;
  auto* norms = reinterpret_cast<float*>(record + coding.offsets.norms) + bucket;
  uint32_t check = 0;
  if (width) {
    auto* words = reinterpret_cast<uint32_t*>(record + coding.offsets.codes) + int64_t{rows[first]} * kLanes;
    check = coding.kernels.encode(values + begin, end - begin, quantiser, coding.tables[width], key,
                                  first_element + static_cast<uint32_t>(begin), coding.strata, scratch, norms, words);
    if (chance == kWhole) return check;
  }
  for (int64_t i = 0; i < buckets; ++i) {
    uint32_t before = 0, after;
    if (width) {
      std::memcpy(&before, norms + i, 4);
      const auto louder = static_cast<float>(static_cast<double>(norms[i]) * kWhole / static_cast<double>(chance));
      norms[i] = louder > kLargestNorm ? kLargestNorm : louder;
    } else {
      norms[i] = is_broken(energies[bucket + i]) ? __builtin_nanf("") : 0.0f;
    }
    std::memcpy(&after, norms + i, 4);
    check += after - before;
  }
  return check;
}

// Write norms, widths and codes of `values` into `record`; return the sum of the words of norms and codes. A `residual` is
// added to the values first, and takes what the record has lost of both.
inline uint32_t encode_by_width(const CodingByWidth& coding, const float* values, int64_t elements, const Ladder& ladder,
                                StreamKey key, uint32_t first_element, uint8_t* record, float* residual) {
  const Quantiser& any = coding.quantisers[0];
  const WidthBlocks blocks = {elements, block_size_of(any.bucket_size)};
  const float* from = residual ? residual : values;
  std::vector<double> energies((elements + any.bucket_size - 1) / any.bucket_size);
  parallel_ranges(coding.threads, elements, blocks.size, [&](int64_t begin, int64_t end, int) {
    if (residual)
      for (int64_t i = begin; i < end; ++i) residual[i] += values[i];
    const auto scratch = scratch_for(any);
    const int64_t bucket = begin / any.bucket_size;
    auto* norms = reinterpret_cast<float*>(record + coding.offsets.norms) + bucket;
    coding.kernels.energies(from + begin, end - begin, any, scratch.get(), norms, energies.data() + bucket);
  });

  uint8_t* widths = record + coding.widths_offset;
  std::vector<int64_t> chances;
  const uint32_t draw = random_bits(key, weyl_number(key, first_element + 0x80000000u)) >> 16;
  share_out(energies, blocks, any.bucket_size, coding.rows, ladder, draw, widths, chances);
  const std::vector<uint32_t> rows = placed_rows(widths, blocks, coding.rows);
  const int64_t last = blocks.count() - 1;
  const int64_t filled = last < 0 ? 0 : rows[last] + blocks.rows_of(last, widths[last]);
  std::memset(record + coding.offsets.codes + filled * (4 * kLanes), 0, (coding.rows - filled) * (4 * kLanes));

  const std::vector<PlacedRecord> own = {{record, widths, rows.data()}};
  // With feedback, parts that stay in a cache are decoded again at once.
  const int64_t most = residual ? std::max<int64_t>(kFeedbackElements / blocks.size, 1) : blocks.count();
  std::atomic<uint32_t> check(0);
  parallel_ranges(coding.threads, elements, blocks.size, [&](int64_t begin, int64_t end, int) {
    const int64_t stop = (end + blocks.size - 1) / blocks.size;
    const auto scratch = scratch_for(coding.quantisers[8]);
    const std::unique_ptr<float[]> decoded(new float[residual ? std::min(most * blocks.size, end - begin) : 0]);
    uint32_t sum = 0;
    for (int64_t block = begin / blocks.size, part; block < stop; block = part) {
      part = std::min(block + most, stop);
      for (int64_t run = block, next; run < part; run = next) {
        for (next = run + 1; next < part && widths[next] == widths[run] && chances[next] == chances[run];) ++next;
        sum += encode_blocks(coding, from, blocks, run, next, widths[run], chances[run], energies.data(), rows.data(), key,
                             first_element, scratch.get(), record);
      }
      if (!residual) continue;
      const int64_t start = block * blocks.size, size = std::min(part * blocks.size, end) - start;
      decode_part(coding, own, start, start + size, 1, decoded.get());
      for (int64_t i = 0; i < size; ++i) residual[start + i] = lost(residual[start + i], decoded[i]);
    }
    check += sum;
  });
  return check;
}

}  // namespace alq
