// Which block of a record gets how many bits, on the CPU; cuda/shares.cuh is the same for a block of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ladder.h"

namespace alq {

inline int32_t key_of(double energy) {
  uint64_t bits;
  std::memcpy(&bits, &energy, 8);
  return key_of(energy, bits);
}

// How many blocks have a key; all but the last block, which may be short.
struct KeyCount {
  int32_t key;
  int64_t blocks;
};

inline std::vector<KeyCount> counted_keys(const std::vector<int32_t>& keys) {
  std::vector<int32_t> sorted;
  for (size_t i = 0; i + 1 < keys.size(); ++i)
    if (keys[i] != kNoKey) sorted.push_back(keys[i]);
  if (sorted.empty()) return {};
  const auto [least, most] = std::minmax_element(sorted.begin(), sorted.end());
  std::vector<int64_t> histogram(*most - *least + 1);
  const int32_t first = *least;
  for (const int32_t key : sorted) ++histogram[key - first];
  std::vector<KeyCount> counted;
  for (size_t i = 0; i < histogram.size(); ++i)
    if (histogram[i]) counted.push_back({first + static_cast<int32_t>(i), histogram[i]});
  return counted;
}

// Share `rows` rows out among blocks of these energies, float64[buckets]; write the width of each block, and the chance
// of kWhole with which it was kept. `draw` is uniform from 0 to 65535.
inline void share_out(const std::vector<double>& energies, const WidthBlocks& blocks, int64_t bucket_size, int64_t rows,
                      const Ladder& ladder, uint32_t draw, uint8_t* widths, std::vector<int64_t>& chances) {
  const int64_t count = blocks.count(), each = blocks.size / bucket_size;
  std::vector<int32_t> keys(count);
  int32_t least = INT32_MAX, most = kNoKey;
  for (int64_t block = 0; block < count; ++block) {
    double total = 0;
    const int64_t stop = std::min<int64_t>((block + 1) * each, static_cast<int64_t>(energies.size()));
    for (int64_t bucket = block * each; bucket < stop; ++bucket)
      if (!is_broken(energies[bucket])) total += energies[bucket];
    keys[block] = key_of(total);
    if (keys[block] != kNoKey) least = std::min(least, keys[block]);
    most = std::max(most, keys[block]);
  }
  chances.assign(count, kWhole);
  std::memset(widths, 0, count);
  if (most == kNoKey) return;

  const std::vector<KeyCount> counted = counted_keys(keys);
  const int64_t rows_of_bit = blocks.size / kTile, kept_rows = blocks.rows_of(0, ladder.base), last = count - 1;
  const auto needed = [&](int32_t threshold) {
    int64_t filled = blocks.rows_of(last, ladder.width(keys[last] - threshold)), kept = ladder.chance(keys[last], threshold);
    for (const auto& [key, number] : counted) {
      filled += number * rows_of_bit * ladder.width(key - threshold);
      kept += number * ladder.chance(key, threshold);
    }
    return filled + (kept + kWhole - 1) / kWhole * kept_rows;
  };
  const int32_t lowest = least - ladder.highest();
  int32_t threshold = lowest;
  for (int32_t high = most + 1 + kFewestSteps; threshold < high;) {
    const int32_t middle = threshold + (high - threshold) / 2;
    if (needed(middle) <= rows)
      high = middle;
    else
      threshold = middle + 1;
  }
  const int64_t left = rows - needed(threshold);
  int64_t wanted = 0, sum = draw;
  for (int64_t block = 0; block < count; ++block) {
    const int width = ladder.width(keys[block] - threshold);
    widths[block] = static_cast<uint8_t>(width);
    const int wider = ladder.width(keys[block] - threshold + 1);
    if (threshold > lowest && ladder.may_widen(width, wider)) {
      wanted += blocks.rows_of(block, wider) - blocks.rows_of(block, width);
      if (wanted <= left) widths[block] = static_cast<uint8_t>(wider);
    }
    const int64_t chance = ladder.chance(keys[block], threshold);
    if ((sum + chance) / kWhole > sum / kWhole) {
      widths[block] = static_cast<uint8_t>(ladder.base);
      chances[block] = chance;
    }
    sum += chance;
  }
}

}  // namespace alq
