// The bin of each coordinate. Included by kernels_impl.h; no include guard on purpose.
//
// Everything here works on a batch of N vectors at once: the steps of one search wait for each other, those of N
// searches do not (on AVX-512, batches of 8 are 1.1 times as fast as single vectors at 3 bits and twice as fast at 8).

// The bins of one vector, and the levels they start at.
struct Bins {
  Ints index;
  Floats lower;
};

// Return index + 1 where `condition` is true, which is -1, and index elsewhere.
ALQ_INLINE Ints plus_one_if(Ints condition, Ints index) {
#if ALQ_WIDTH == 16
  return condition ? index + 1 : index;  // one masked addition
#else
  return index - condition;
#endif
}

// Continue a binary search at `depth`: an index has `depth` bits, looked up among only 2^depth levels, so that all but
// the deepest levels of a large table sit in a few registers.
template <int B, int depth, int N>
ALQ_INLINE void descend(const Floats* normalised, const Table& table, Bins* bins) {
  if constexpr (depth < B) {
    for (int k = 0; k < N; ++k) {
      const Floats level =
          depth == 0 ? Floats{} + table.tree[1] : lookup<1 << depth>(table.tree + (1 << depth), bins[k].index);
      const Ints above = normalised[k] >= level;
      bins[k] = {plus_one_if(above, bins[k].index + bins[k].index), above ? level : bins[k].lower};
    }
    descend<B, depth + 1, N>(normalised, table, bins);
  }
}

// Find the last bin whose level is not above each coordinate, or the first bin when all are.
template <int B, int N>
ALQ_INLINE void find_bins(const Floats* normalised, const Table& table, Bins* bins) {
#if ALQ_WIDTH >= 8
  for (int k = 0; k < N; ++k) bins[k] = {Ints{}, Floats{} + table.levels[0]};
  descend<B, 0, N>(normalised, table, bins);
  constexpr bool look_up = (1 << B) <= 2 * W;  // cheaper than the B selections on the way down
#else
  // Without permutations, counting the levels below is faster; of more than 16 levels, every 2^(B - 4)th is counted.
  constexpr int counted = B < 4 ? B : 4, step = 1 << (B - counted);
  for (int k = 0; k < N; ++k) {
    Ints index = {};
    for (int i = 1; i < 1 << counted; ++i) index -= normalised[k] >= Floats{} + table.levels[i * step];  // true is -1
    bins[k] = {index, Floats{}};
  }
  descend<B, counted, N>(normalised, table, bins);
  constexpr bool look_up = true;
#endif
  if constexpr (look_up)
    for (int k = 0; k < N; ++k) bins[k].lower = lookup<1 << B>(table.levels, bins[k].index);
}
