// Which block of a record gets how many bits; alq_hvd/quantiser/widths.py specifies it. Integers, but for the sums of
// energies, so that every codec comes to the same widths.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace alq {

constexpr int kStepsLog2 = 3, kSteps = 1 << kStepsLog2;
constexpr int64_t kNoKey = -(int64_t{1} << 30);
constexpr int64_t kWhole = 1 << 16;
constexpr double kSmallestEnergy = 1.3817869688151111e-76;  // 2^-252
constexpr double kLargestEnergy = double{kLargestNorm} * double{kLargestNorm};
constexpr int kHalvings = 16;  // of a chance, below which it stays as it is
constexpr int kFewestSteps = kHalvings * 2 * kSteps;

// How widths grow with energy: `base` bits from the threshold on, and a bit more at each of `steps` above it.
struct Ladder {
  int base = 1;
  std::vector<int64_t> steps;
  bool keeps_all = false;  // blocks below the threshold are kept at random

  int width(int64_t above) const {
    int reached = 0;
    for (const int64_t step : steps) reached += above >= step;
    return reached ? base - 1 + reached : 0;
  }

  // Return the chance of kWhole that a block with this key is kept, 0 from the threshold on.
  int64_t chance(int64_t key, int64_t threshold) const {
    // 65536 * 2^(-step / 16), rounded
    constexpr int64_t chances[2 * kSteps] = {65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393,
                                             46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219};
    if (!keeps_all || key == kNoKey || threshold <= key) return 0;
    const int64_t below = std::min<int64_t>(threshold - key, kFewestSteps);
    return std::max<int64_t>(chances[below % (2 * kSteps)] >> (below / (2 * kSteps)), 1);
  }
};

// How a record is cut into blocks.
struct Blocks {
  int64_t elements, size;
  int64_t count() const { return (elements + size - 1) / size; }
  int64_t elements_of(int64_t block) const { return std::min(size, elements - block * size); }
  // Return the rows of 32 words that a block's codes fill.
  int64_t rows_of(int64_t block, int width) const {
    const int64_t own = elements_of(block), tail = (own % kTile + kLanes - 1) / kLanes;
    return own / kTile * width + (tail * width + 31) / 32;
  }
};

inline bool is_broken(double energy) { return !(energy <= kLargestEnergy); }

inline int64_t key_of(double energy) {
  if (!(energy >= kSmallestEnergy)) return kNoKey;
  uint64_t bits;
  std::memcpy(&bits, &energy, 8);
  return static_cast<int64_t>(bits >> (52 - kStepsLog2));
}

// How many blocks have a key; all but the last block, which may be short.
struct KeyCount {
  int64_t key, blocks;
};

inline std::vector<KeyCount> counted_keys(const std::vector<int64_t>& keys) {
  std::vector<int64_t> sorted;
  for (size_t i = 0; i + 1 < keys.size(); ++i)
    if (keys[i] != kNoKey) sorted.push_back(keys[i]);
  if (sorted.empty()) return {};
  const auto [least, most] = std::minmax_element(sorted.begin(), sorted.end());
  std::vector<int64_t> histogram(*most - *least + 1);
  const int64_t first = *least;
  for (const int64_t key : sorted) ++histogram[key - first];
  std::vector<KeyCount> counted;
  for (size_t i = 0; i < histogram.size(); ++i)
    if (histogram[i]) counted.push_back({first + static_cast<int64_t>(i), histogram[i]});
  return counted;
}

// Share `rows` rows out among blocks of these energies, float64[buckets]; write the width of each block, and the chance
// of kWhole with which it was kept. `draw` is uniform from 0 to 65535.
inline void share_out(const std::vector<double>& energies, const Blocks& blocks, int64_t bucket_size, int64_t rows,
                      const Ladder& ladder, uint32_t draw, uint8_t* widths, std::vector<int64_t>& chances) {
  const int64_t count = blocks.count(), each = blocks.size / bucket_size;
  std::vector<int64_t> keys(count);
  int64_t least = INT64_MAX, most = kNoKey;
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
  const auto needed = [&](int64_t threshold) {
    int64_t filled = blocks.rows_of(last, ladder.width(keys[last] - threshold)), kept = ladder.chance(keys[last], threshold);
    for (const auto& [key, number] : counted) {
      filled += number * rows_of_bit * ladder.width(key - threshold);
      kept += number * ladder.chance(key, threshold);
    }
    return filled + (kept + kWhole - 1) / kWhole * kept_rows;
  };
  const int64_t lowest = least - ladder.steps.back();
  int64_t threshold = lowest;
  for (int64_t high = most + 1 + kFewestSteps; threshold < high;) {
    const int64_t middle = threshold + (high - threshold) / 2;
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
    if (threshold > lowest && wider > width && (width > 0 || !ladder.keeps_all)) {
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
