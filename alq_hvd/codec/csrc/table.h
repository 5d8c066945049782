// Level tables as the kernels read them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.h"

namespace alq {

// Return the table of `count` levels, 2 <= count <= 2^bits, with every array filled up, for draws of so many values.
inline Table make_table(const float* levels, const float* inverse_gaps, int count, int bits, float draws = kDraws) {
  Table table = {};
  table.count = count;
  table.smallest_level = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 256; ++i) {
    table.levels[i] = i < count ? levels[i] : std::numeric_limits<float>::infinity();
    table.decoded[i] = levels[std::min(i, count - 1)];
    table.scaled_inverse_gaps[i] = i < count ? inverse_gaps[i] * draws : 0.0f;
    if (table.levels[i] != 0) table.smallest_level = std::min(table.smallest_level, std::abs(table.levels[i]));
  }
  for (int depth = 0; depth < bits; ++depth)
    for (int i = 0; i < 1 << depth; ++i) table.tree[(1 << depth) + i] = table.levels[(2 * i + 1) << (bits - depth - 1)];
  return table;
}

}  // namespace alq
