// Uniform numbers that ranks share out among them, written once for every compiler; alq_hvd/codec/strata.py specifies it.
#pragma once

#include "quantise.h"

namespace alq {

// Of every element, [0, 1) is cut into `count` strata, a prime or a power of two, which permutations deal out to ranks.
struct Strata {
  StreamKey key = {0, 0};   // of the permutations, shared by all ranks
  uint32_t count = 1;       // 1: ranks are independent
  uint32_t place = 0;       // of this rank
  uint32_t polynomial = 0;  // of the field of 2^k elements; 0 for a prime
};

// Elements after which the permutations repeat, shifted anew.
constexpr uint32_t kStrataPeriod = 1024;
constexpr uint32_t kMostStrata = 1 << 16;

// How many random bits of its own a rank draws inside a stratum, and how many values a draw has.
ALQ_INLINE int own_bits(const Strata& strata) {
  int bits = 24;
  while ((1u << (24 - bits)) < strata.count) --bits;
  return bits;
}
ALQ_INLINE float draws_of(const Strata& strata) { return static_cast<float>(strata.count << own_bits(strata)); }

// Return one + other in the integers modulo `modulus`, both below it; unsigned numbers wrap.
template <typename Unsigned>
ALQ_INLINE Unsigned plus_modulo(Unsigned one, Unsigned other, uint32_t modulus) {
  const Unsigned sum = one + other, rest = sum - modulus;
  return rest < sum ? rest : sum;
}

template <typename Unsigned>
ALQ_INLINE Unsigned field_plus(const Strata& strata, Unsigned one, Unsigned other) {
  return strata.polynomial ? one ^ other : plus_modulo(one, other, strata.count);
}

// Return `factor` times this rank's place in the field: doubled and added, bit by bit.
template <typename Unsigned>
ALQ_INLINE Unsigned times_place(const Strata& strata, Unsigned factor) {
  const int log2 = 24 - own_bits(strata);
  Unsigned product = factor ^ factor;
  for (uint32_t place = strata.place; place; place >>= 1) {
    if (place & 1) product = field_plus(strata, product, factor);
    if (strata.polynomial) {
      factor = factor << 1;
      factor = factor ^ ((factor >> log2) * strata.polynomial);
    } else {
      factor = plus_modulo(factor, factor, strata.count);
    }
  }
  return product;
}

// Return the stratum of this rank at the elements whose number modulo kStrataPeriod is `place`, before they are shifted.
template <typename Unsigned>
ALQ_INLINE Unsigned unshifted_stratum(const Strata& strata, Unsigned place) {
  const Unsigned x = random_bits(strata.key, weyl_number(strata.key, place));
  const Unsigned factor = ((x >> 16) * (strata.count - 1) >> 16) + 1u;
  const Unsigned term = (x & 0xffffu) * strata.count >> 16;
  return field_plus(strata, times_place(strata, factor), term);
}

// Return the shift of the strata of `element` and its neighbours: the same for kStrataPeriod elements.
ALQ_INLINE uint32_t stratum_shift(const Strata& strata, uint32_t element) {
  const uint32_t y = random_bits(strata.key, weyl_number(strata.key, element / kStrataPeriod + kStrataPeriod));
  return static_cast<uint32_t>(uint64_t{y} * strata.count >> 32);
}

}  // namespace alq
