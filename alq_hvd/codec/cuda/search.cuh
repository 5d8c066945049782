// From a normalised coordinate to its code: what a thread does where nothing has to be asked about its bucket.
#pragma once

#include "device.cuh"

namespace alq {

// A level and kDraws * kDrawStep / its gap.
struct alignas(8) Entry {
  float lower, scaled;
};

// A table in shared memory, and of every search its beginning, which is in registers. Entries are found by their distance
// in bytes, so that a step of a search is one comparison and one addition.
template <int B>
struct Search {
  static constexpr bool kDeep = B > 5;  // entries a power of two apart would meet in few banks: then take the tree
  const Entry* entries;
  const float* tree;
  float root, lower, upper;

  ALQ_DEVICE const Entry& at(uint32_t bytes) const {
    return *reinterpret_cast<const Entry*>(reinterpret_cast<const char*>(entries) + bytes);
  }

  // Go down from `depth`: to `bytes` comes what lies between the first entry in question and the last level <= x.
  template <int depth>
  ALQ_DEVICE void descend(uint32_t& bytes, float x) const {
    if constexpr (depth < B) {
      constexpr uint32_t half = sizeof(Entry) << (B - 1 - depth);
      add_unless_below<half>(bytes, x, at(bytes + half).lower);
      descend<depth + 1>(bytes, x);
    }
  }

  // Return sizeof(Entry) times the number of the last level <= x; 0 below all.
  ALQ_DEVICE uint32_t find(float x) const {
    const bool up = x >= root;
    if constexpr (kDeep) {
      uint32_t bin = 2 * up + (x >= (up ? upper : lower));
#pragma unroll
      for (int depth = 2; depth < B; ++depth) bin = 2 * bin + (x >= tree[(1u << depth) + bin]);
      return bin * sizeof(Entry);
    } else {
      uint32_t bytes = up ? sizeof(Entry) << (B - 1) : 0;
      if constexpr (B > 1) add_unless_below<(sizeof(Entry) << B) / 4>(bytes, x, up ? upper : lower);
      descend<2>(bytes, x);
      return bytes;
    }
  }

  // Return sizeof(Entry) times the code: one up where the coordinate is further than `draw` into its bin (see rounds_up).
  ALQ_DEVICE uint32_t round(float x, float draw) const {
    uint32_t bytes = find(x);
    const Entry bin = at(bytes);
    add_if_above<sizeof(Entry)>(bytes, (x - bin.lower) * bin.scaled, draw);
    return bytes;
  }
};

// Copy an entry, and a node of the tree where it is searched, to shared memory.
template <int B>
ALQ_DEVICE void copy_entry(const Tables* tables, int i, Entry* entries, float* tree) {
  entries[i] = {tables->levels[i], tables->scaled_inverse_gaps[i] * kDrawStep};
  if (Search<B>::kDeep) tree[i] = tables->tree[i];
}

template <int B>
ALQ_DEVICE Search<B> make_search(const Tables* tables, const Entry* entries, const float* tree) {
  return {entries, tree, tables->tree[1], B > 1 ? tables->tree[2] : 0, B > 1 ? tables->tree[3] : 0};
}

}  // namespace alq
