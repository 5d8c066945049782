// Values to norms and packed codes. Included by kernels_impl.h; no include guard on purpose.

// One bucket's way from values to codes; `ahead` elements further on is what will be read next from memory.
struct Run {
  float norm;
  bool silent;          // norm zero or NaN: any code decodes right, so zeros are sent
  bool use_reciprocal;
  int64_t ahead;
};

// What the random integers of up to kStrataPeriod elements, all of one shift, are made of. Independent ranks have zeros
// for strata.
struct Draws {
  StreamKey key;
  int dropped;              // of 32 random bits; the rest are drawn inside the stratum
  uint32_t shift, modulus;  // of strata, scaled as these are; 0 is no modulus
  const uint32_t* strata;   // of the element that comes first
};

ALQ_INLINE Draws draws_from(const Strata& strata, StreamKey key, uint32_t element, const uint32_t* filled) {
  const int bits = own_bits(strata);
  const uint32_t shift = strata.count > 1 ? stratum_shift(strata, element) << bits : 0;
  const uint32_t modulus = strata.polynomial || strata.count == 1 ? 0 : strata.count << bits;
  return {key, 32 - bits, shift, modulus, strata.count > 1 ? filled + element % kStrataPeriod : filled};
}

// Return the draws of the elements with these Weyl numbers, integers as floats.
ALQ_INLINE Floats drawn(const Draws& draws, Words weyl, const uint32_t* strata) {
  const Words own = random_bits(draws.key, weyl) >> draws.dropped, stratum = load<Words>(strata);
  const Words draw = draws.modulus ? own + plus_modulo(stratum, Words{} + draws.shift, draws.modulus)
                                   : own ^ stratum ^ draws.shift;
  return __builtin_convertvector((Ints)draw, Floats);
}

// Write the codes of N vectors of coordinates.
template <int B, int N, bool use_reciprocal, bool nearest>
ALQ_INLINE void quantise(const float* values, const Run& run, const Table& table, const Draws& draws, Words weyl,
                         const uint32_t* strata, uint32_t* codes) {
  const Floats norms = Floats{} + run.norm;
  Floats normalised[N];
  Bins bins[N];
  for (int k = 0; k < N; ++k) {
    const Floats v = load<Floats>(values + k * W);
    __builtin_prefetch(values + k * W + run.ahead, 0, 2);
#if ALQ_WIDTH >= 8
    normalised[k] = use_reciprocal ? divide(v, norms, Floats{} + 1.0f / run.norm, fused) : v / norms;
#else
    normalised[k] = v / norms;
#endif
  }
  find_bins<B, N>(normalised, table, bins);
  for (int k = 0; k < N; ++k, weyl += W * kWeylStep) {
    const Floats draw = nearest ? Floats{} + kDraws / 2 : drawn(draws, weyl, strata + k * W);
    const Ints up = rounds_up(normalised[k], bins[k].lower, lookup<1 << B>(table.scaled_inverse_gaps, bins[k].index),
                              draw);
    store(codes + k * W, plus_one_if(up, bins[k].index));
  }
}

// Write the codes of `count` coordinates of one bucket, the first of which draws from `first_weyl`.
template <int B, bool use_reciprocal, bool nearest>
ALQ_INLINE void quantise_run(const float* values, int64_t count, const Run& run, const Table& table, const Draws& draws,
                             uint32_t first_weyl, uint32_t* codes) {
  constexpr int N = W == 4 && B <= 4 ? 1 : 8;  // counting does not wait
  Words weyl = iota() * kWeylStep + first_weyl;
  int64_t i = 0;
  for (; i + N * W <= count; i += N * W, weyl += N * W * kWeylStep)
    quantise<B, N, use_reciprocal, nearest>(values + i, run, table, draws, weyl, draws.strata + i, codes + i);
  for (; i + W <= count; i += W, weyl += W * kWeylStep)
    quantise<B, 1, use_reciprocal, nearest>(values + i, run, table, draws, weyl, draws.strata + i, codes + i);
  if (i < count) {
    float last[W] = {};
    uint32_t last_codes[W], last_strata[W] = {};
    for (int64_t k = i; k < count; ++k) last[k - i] = values[k];
    if (!nearest)
      for (int64_t k = i; k < count; ++k) last_strata[k - i] = draws.strata[k];
    quantise<B, 1, use_reciprocal, nearest>(last, run, table, draws, weyl, last_strata, last_codes);
    for (int64_t k = i; k < count; ++k) codes[k] = last_codes[k - i];
  }
}

// Pack `rows` rows of 32 codes into whole words, unused bits zero, and add the words to `sums`.
template <int B>
ALQ_INLINE void pack_rows(const uint32_t* codes, int rows, uint32_t* words, Words& sums) {
  for (int lane = 0; lane < kLanes; lane += W) {
    Words word = {};
    uint32_t* out = words + lane;
    int shift = 0;
    for (int row = 0; row < rows; ++row) {
      const Words code = load<Words>(codes + row * kLanes + lane);
      word |= code << shift;
      shift += B;
      if (shift >= 32) {
        store(out, word);
        sums += word;
        out += kLanes;
        shift -= 32;
        word = shift ? code >> (B - shift) : Words{};
      }
    }
    if (shift) {
      store(out, word);
      sums += word;
    }
  }
}

// The norm needs the whole bucket before its first code, so the next bucket is fetched while this one is quantised, unless
// it is too large for half a usual second-level cache. Return how far ahead to fetch; 0 fetches nothing new.
inline int64_t fetch_distance(const Quantiser& quantiser, int64_t left) {
  constexpr int64_t most = 1 << 16;
  if (quantiser.clip > 0 || quantiser.rounds || quantiser.bucket_size > most) return 0;
  const int64_t distance = quantiser.bucket_size > kTile ? quantiser.bucket_size : kTile;
  return distance < left ? distance : 0;
}

template <int B, bool nearest>
uint32_t encode_bits(const float* values, int64_t elements, const Quantiser& quantiser, const Table& table, StreamKey key,
                 uint32_t first_element, const uint32_t* strata, float* scratch, float* norms, uint32_t* words) {
  alignas(64) uint32_t codes[kTile];
  int filled = 0;  // codes of the open tile
  float* chosen = scratch + quantiser.bucket_size;
  uint32_t check = 0;
  Words sums = {};
  for (int64_t start = 0; start < elements; start += quantiser.bucket_size) {
    const int64_t size = elements - start < quantiser.bucket_size ? elements - start : quantiser.bucket_size;
    const float* bucket = prepared(values + start, size, quantiser, first_element + static_cast<uint32_t>(start), scratch);
    const Normaliser unit = quantiser.knows_norms ? Normaliser{*norms, 0} : normaliser(bucket, size, quantiser);
    const float norm = unit.norm;
    *norms = norm;
    Run run = {norm, !(norm > 0), can_use_reciprocal(norm, table.smallest_level), 0};
    for (int64_t done = 0; done < size;) {
      const uint32_t element = first_element + static_cast<uint32_t>(start + done);
      const int64_t room = kTile - filled, rest = size - done, same_shift = kStrataPeriod - element % kStrataPeriod;
      int64_t count = rest < room ? rest : room;
      if (quantiser.strata.count > 1 && same_shift < count) count = same_shift;
      uint32_t* out = codes + filled;
      const uint32_t weyl = weyl_number(key, element);
      const Draws draws = draws_from(quantiser.strata, key, element, strata);
      run.ahead = fetch_distance(quantiser, elements - start - done - count);
      if (run.silent)
        for (int64_t i = 0; i < count; ++i) out[i] = 0;
      else if (run.use_reciprocal)
        quantise_run<B, true, nearest>(bucket + done, count, run, table, draws, weyl, out);
      else
        quantise_run<B, false, nearest>(bucket + done, count, run, table, draws, weyl, out);
      if (nearest)
        for (int64_t i = 0; i < count; ++i) chosen[done + i] = table.levels[out[i]];
      done += count;
      filled += static_cast<int>(count);
      if (filled == kTile) {
        pack_rows<B>(codes, kRows, words, sums);
        words += B * kLanes;
        filled = 0;
      }
    }
    if (nearest && !run.silent) *norms = projection_scale(bucket, chosen, size, unit);
    uint32_t norm_bits;
    __builtin_memcpy(&norm_bits, norms++, 4);
    check += norm_bits;
  }
  if (filled) {
    const int rows = (filled + kLanes - 1) / kLanes;
    for (int i = filled; i < rows * kLanes; ++i) codes[i] = 0;
    pack_rows<B>(codes, rows, words, sums);
  }
  for (int k = 0; k < W; ++k) check += sums[k];
  return check;
}

template <bool nearest>
ALQ_INLINE auto encode_table(int bits) {
  constexpr decltype(&encode_bits<1, nearest>) by_bits[] = {
      encode_bits<1, nearest>, encode_bits<2, nearest>, encode_bits<3, nearest>, encode_bits<4, nearest>,
      encode_bits<5, nearest>, encode_bits<6, nearest>, encode_bits<7, nearest>, encode_bits<8, nearest>};
  return by_bits[bits - 1];
}

inline uint32_t encode_any(const float* values, int64_t elements, const Quantiser& quantiser, const Table& table,
                       StreamKey key, uint32_t first_element, const uint32_t* strata, float* scratch, float* norms,
                       uint32_t* words) {
  const auto encode = quantiser.reach > 0 ? encode_table<true>(quantiser.bits) : encode_table<false>(quantiser.bits);
  return encode(values, elements, quantiser, table, key, first_element, strata, scratch, norms, words);
}

inline void fill_strata(const Strata& strata, uint32_t* filled) {
  const int bits = own_bits(strata);
  for (uint32_t i = 0; i < kStrataPeriod; i += W)
    store(filled + i, strata.count > 1 ? unshifted_stratum(strata, iota() + i) << bits : Words{});
}
