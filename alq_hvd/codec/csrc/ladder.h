// How the width of a block follows its energy, written once for every compiler; alq_hvd/quantiser/widths.py specifies it.
// Integers, so that every codec comes to the same widths.
#pragma once

#include "quantise.h"

namespace alq {

constexpr int kWidest = 8;  // bits
constexpr int kStepsLog2 = 3, kSteps = 1 << kStepsLog2;
constexpr int32_t kNoKey = -(1 << 30);
constexpr int32_t kWhole = 1 << 16;
constexpr double kSmallestEnergy = 1.3817869688151111e-76;  // 2^-252
constexpr double kLargestEnergy = double{kLargestNorm} * double{kLargestNorm};
constexpr int kHalvings = 16;  // of a chance, below which it stays as it is
constexpr int kFewestSteps = kHalvings * 2 * kSteps;

ALQ_INLINE bool is_broken(double energy) { return !(energy <= kLargestEnergy); }

// Return exponent and first bits of the mantissa, from the bits of an energy.
ALQ_INLINE int32_t key_of(double energy, uint64_t bits) {
  return energy >= kSmallestEnergy ? static_cast<int32_t>(bits >> (52 - kStepsLog2)) : kNoKey;
}

// How widths grow with energy: `base` bits from the threshold on, and a bit more at each of `count` steps above it, the first of
// which is 0.
struct Ladder {
  int base, count, keeps_all;  // the last: blocks below the threshold are kept at random
  int32_t steps[kWidest];

  ALQ_INLINE int32_t highest() const { return steps[count - 1]; }

  ALQ_INLINE int width(int32_t above) const {
    int reached = 0;
    for (int i = 0; i < count; ++i) reached += above >= steps[i];
    return reached ? base - 1 + reached : 0;
  }

  // Return the chance of kWhole that a block with this key is kept, 0 from the threshold on.
  ALQ_INLINE int32_t chance(int32_t key, int32_t threshold) const {
    // 65536 * 2^(-step / 16), rounded
    constexpr int32_t chances[2 * kSteps] = {65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393,
                                             46341, 44376, 42495, 40693, 38968, 37316, 35734, 34219};
    if (!keeps_all || key == kNoKey || threshold <= key) return 0;
    const int32_t below = threshold - key < kFewestSteps ? threshold - key : kFewestSteps;
    const int32_t kept = chances[below % (2 * kSteps)] >> below / (2 * kSteps);
    return kept > 1 ? kept : 1;
  }

  // Return whether a block may have more bits than its width at `threshold`, where rows are left.
  ALQ_INLINE bool may_widen(int width, int wider) const { return wider > width && (width > 0 || !keeps_all); }
};

// How a record is cut into blocks that have a width each.
struct WidthBlocks {
  int64_t elements, size;  // of a block, a multiple of kTile

  ALQ_INLINE int64_t count() const { return (elements + size - 1) / size; }
  ALQ_INLINE int64_t elements_of(int64_t block) const {
    const int64_t left = elements - block * size;
    return left < size ? left : size;
  }
  // Return the rows of 32 words that a block's codes fill.
  ALQ_INLINE int64_t rows_of(int64_t block, int width) const {
    const int64_t own = elements_of(block), tail = (own % kTile + kLanes - 1) / kLanes;
    return own / kTile * width + (tail * width + 31) / 32;
  }
};

}  // namespace alq
