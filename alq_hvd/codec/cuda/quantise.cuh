// Coordinates to codes, and codes to packed words: what one thread does.
#pragma once

#include "tensors.cuh"

namespace alq {

// What one thread needs to quantise. Every search begins at the root: the first two depths of the tree are kept in registers.
struct Quantise {
  const Group& group;
  const float *levels, *scaled_inverse_gaps, *tree;  // shared
  float smallest_level;
  StreamKey key;
  uint32_t first_element;
  float dither;  // as Group::dither
  float root, lower, upper;
};

ALQ_DEVICE Quantise make_quantise(const Group& group, const float* levels, const float* scaled_inverse_gaps,
                                  const float* tree, float smallest_level, StreamKey key, uint32_t first_element,
                                  float dither, int bits) {
  const float lower = bits > 1 ? tree[2] : 0, upper = bits > 1 ? tree[3] : 0;
  return {group, levels, scaled_inverse_gaps, tree, smallest_level, key, first_element, dither,
          tree[1], lower, upper};
}

// A bucket's norm, by which its coordinates are divided; 1 / norm where multiplying by it will do, else 0; and what is
// sent in place of the norm.
struct Unit {
  float norm, reciprocal, sent;
};

ALQ_DEVICE Unit make_unit(float norm, float sent, float smallest_level) {
  return {norm, can_use_reciprocal(norm, smallest_level) ? 1.0f / norm : 0.0f, sent};
}

// How the strata are shifted of up to kStrataPeriod elements from `element` of the fusion group on: on its side of a multiple of
// kStrataPeriod, and on the other.
struct Shifts {
  uint32_t element, here, beyond;
};

ALQ_DEVICE Shifts shifts_from(const Strata& strata, uint32_t element) {
  if (strata.count == 1) return {element, 0, 0};
  return {element, stratum_shift(strata, element), stratum_shift(strata, element + kStrataPeriod - 1)};
}

// Return the draw of an element of the fusion group, as draw_bits does.
ALQ_DEVICE uint32_t draw_of(const Quantise& q, const Shifts& shifts, uint32_t element) {
  const uint32_t own = draw_bits(weyl_number(q.key, element), q.key.second * kLastFactor);
  if (q.group.strata.count == 1) return own;
  const bool here = element / kStrataPeriod == shifts.element / kStrataPeriod;
  const uint32_t unshifted = q.group.unshifted[element % kStrataPeriod];
  return draw_bits_in(q.group, field_plus(q.group.strata, unshifted, here ? shifts.here : shifts.beyond), own);
}

// Return the code of a coordinate; `draw` is an integer below the number of values that a draw has, or half of that to round to
// the nearest. A width that is not known beforehand is 0, and told.
template <int B>
ALQ_DEVICE uint32_t code_of(const Quantise& q, float value, const Unit& unit, float draw, int bits = B) {
  if (!(unit.norm > 0)) return 0;  // zero or NaN: any code decodes right
  const float normalised =
      unit.reciprocal > 0
          ? divide(value, unit.norm, unit.reciprocal, Fused())
          : value / unit.norm;
  uint32_t bin = normalised >= q.root;
  if (bits > 1) bin = 2 * bin + (normalised >= (bin ? q.upper : q.lower));
#pragma unroll (B ? B : 1)
  for (int depth = 2; depth < bits; ++depth) bin = 2 * bin + (normalised >= q.tree[(1u << depth) + bin]);
  return bin + rounds_up(normalised, q.levels[bin], q.scaled_inverse_gaps[bin], draw);
}

// Pack a tile of `rest` elements, at most kTile, from `element` on: this thread's lane of it, all 32 rows, where rows past
// the end hold zeros and only the words that the record has room for are written. Return the sum of those words.
// Eight rows at a time, or fewer, keep the code small, and searches do not wait for each other.
// `unit(row)` and `value(row)` give what belongs to the coordinate in `row`; `keep(row, decoded)` takes what its receiver
// will see.
template <int B, int at_once = 8, typename Units, typename Value, typename Keep>
ALQ_DEVICE uint32_t pack_tile(const Quantise& q, uint32_t element, int rest, bool nearest, Units units, Value value,
                              Keep keep, uint32_t* words) {
  const int lane = threadIdx.x % kLanes, needed = ((rest + kLanes - 1) / kLanes * B + 31) / 32;
  const uint32_t first = q.first_element + element;
  const Shifts shifts = shifts_from(q.group.strata, first);
  uint32_t word = 0, sum = 0;
#pragma unroll at_once
  for (int row = 0; row < kRows; ++row) {
    const int i = row * kLanes + lane, shift = row * B % 32, index = row * B / 32;
    uint32_t code = 0;
    if (i < rest) {
      const Unit unit = units(row);
      const uint32_t draw = nearest ? 0 : draw_of(q, shifts, first + i);
      code = code_of<B>(q, value(row), unit, nearest ? kDraws / 2 : static_cast<float>(draw >> 8));
      const float level = q.levels[code];
      keep(row, dequantise(unit.sent, q.dither > 0 ? level + dither_of(q.dither, draw) : level));
    }
    word |= code << shift;
    if (shift + B >= 32) {
      if (index < needed) {
        words[index * kLanes + lane] = word;
        sum += word;
      }
      word = shift + B > 32 ? code >> (32 - shift) : 0;
    }
  }
  return sum;
}

}  // namespace alq
