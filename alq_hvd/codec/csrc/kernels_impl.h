// The CPU kernels, written with GCC/Clang vector types of ALQ_WIDTH floats. Each kernels_*.cpp includes this file inside
// its own namespace and under its own instruction set; there is no include guard on purpose.

constexpr int W = ALQ_WIDTH;
typedef float Floats __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef double Doubles __attribute__((vector_size(8 * W)));

template <typename Vector, typename Scalar>
ALQ_INLINE Vector load(const Scalar* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename Vector, typename Scalar>
ALQ_INLINE void store(Scalar* to, Vector v) {
  __builtin_memcpy(to, &v, sizeof v);
}

ALQ_INLINE Words iota() {
  Words v;
  for (int i = 0; i < W; ++i) v[i] = i;
  return v;
}

// Look each index up in a table of 2^B entries: shuffles while the table fits a few registers, loads beyond.
template <int B>
ALQ_INLINE Floats lookup(const float* table, Ints index) {
  constexpr int size = 1 << B;
  if constexpr (size <= W) {
    return __builtin_shuffle(load<Floats>(table), index);
  } else if constexpr (size == 2 * W) {
    return __builtin_shuffle(load<Floats>(table), load<Floats>(table + W), index);
  } else if constexpr (size == 4 * W) {
    Floats low = __builtin_shuffle(load<Floats>(table), load<Floats>(table + W), index);
    Floats high = __builtin_shuffle(load<Floats>(table + 2 * W), load<Floats>(table + 3 * W), index);
    return (index & (2 * W)) != 0 ? high : low;
  } else {
    Floats v;
    for (int i = 0; i < W; ++i) v[i] = table[index[i]];
    return v;
  }
}

// Return the codes of W coordinates of a bucket of norm `norm`.
template <int B>
ALQ_INLINE Words quantise(Floats values, Floats norm, const Table& table, Floats low, Floats high, StreamKey key,
                          Words index) {
  const Floats normalised = clamp(values / norm, low, high);
  Ints bin = {};
  for (int step = 1 << (B - 1); step > 0; step >>= 1) {
    const Ints candidate = bin + step;
    bin = normalised >= lookup<B>(table.levels, candidate) ? candidate : bin;
  }
  const Words bits = random_bits(key, index) >> 8;
  const Floats uniform = __builtin_convertvector((Ints)bits, Floats) * kUniformStep;
  const Ints up = rounds_up(normalised, lookup<B>(table.levels, bin), lookup<B>(table.inverse_gaps, bin), uniform);
  return (Words)(bin - up);  // a true comparison is -1
}

// Pack `rows` rows of 32 codes into whole words; unused bits are zero.
template <int B>
ALQ_INLINE void pack_rows(const uint32_t* codes, int rows, uint32_t* words) {
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
        out += kLanes;
        shift -= 32;
        word = shift ? code >> (B - shift) : Words{};
      }
    }
    if (shift) store(out, word);
  }
}

struct BucketSums {
  double sum, squares;
};

// Sum values and squares of a bucket in the order that quantise.h fixes.
template <bool with_sum>
inline BucketSums bucket_sums(const float* values, int64_t count) {
  alignas(64) double sums[kSumLanes], squares[kSumLanes];
  const int64_t used = count < kSumLanes ? count : kSumLanes;
  int64_t lane = 0;
  for (; lane + W <= used; lane += W) {
    Doubles sum = {}, square = {};
    int64_t i = lane;
    for (; i + W <= count; i += kSumLanes) {
      const Doubles x = __builtin_convertvector(load<Floats>(values + i), Doubles);
      square += x * x;
      if (with_sum) sum += x;
    }
    store(squares + lane, square);
    if (with_sum) store(sums + lane, sum);
    for (int64_t j = i; j < count && j < i + W; ++j) {  // the short last row
      const double x = values[j];
      squares[lane + j - i] += x * x;
      if (with_sum) sums[lane + j - i] += x;
    }
  }
  for (; lane < used; ++lane) {
    double sum = 0, square = 0;
    for (int64_t i = lane; i < count; i += kSumLanes) {
      const double x = values[i];
      square += x * x;
      if (with_sum) sum += x;
    }
    squares[lane] = square;
    if (with_sum) sums[lane] = sum;
  }
  for (int64_t i = used; i < kSumLanes; ++i) squares[i] = sums[i] = 0;
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    if (half >= used) continue;  // adds zeros only
    for (int i = 0; i < half; ++i) {
      squares[i] += squares[i + half];
      if (with_sum) sums[i] += sums[i + half];
    }
  }
  return {with_sum ? sums[0] : 0.0, squares[0]};
}

// Return the largest magnitude, or NaN when any value is NaN or infinite. The order of magnitudes is that of their bits.
inline float largest_magnitude(const float* values, int64_t count) {
  Words most = {};
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    const Words magnitude = load<Words>(values + i) & 0x7fffffffu;
    most = most > magnitude ? most : magnitude;
  }
  uint32_t result = 0;
  for (int k = 0; k < W; ++k) result = result > most[k] ? result : most[k];
  for (; i < count; ++i) {
    uint32_t magnitude;
    __builtin_memcpy(&magnitude, values + i, 4);
    magnitude &= 0x7fffffffu;
    result = result > magnitude ? result : magnitude;
  }
  if (result >= 0x7f800000u) return __builtin_nanf("");
  float norm;
  __builtin_memcpy(&norm, &result, 4);
  return norm;
}

// Return the norm as it is sent: NaN for a bucket that is not finite, 0 for one too small to normalise.
inline float bucket_norm(const float* values, int64_t count, bool maximum) {
  const float norm = maximum ? largest_magnitude(values, count)
                             : static_cast<float>(__builtin_sqrt(bucket_sums<false>(values, count).squares));
  if (!(norm <= 3.40282347e+38f)) return __builtin_nanf("");
  return norm < kSmallestNorm ? 0.0f : norm;
}

// Clamp a bucket to `clip` standard deviations into `clipped`; a bucket without spread is copied as it is.
inline void clip_bucket(const float* values, int64_t count, double clip, float* clipped) {
  const BucketSums sums = bucket_sums<true>(values, count);
  const double mean = sums.sum / static_cast<double>(count);
  const double variance = sums.squares / static_cast<double>(count) - mean * mean;
  const float limit = variance > 0 ? static_cast<float>(clip * __builtin_sqrt(variance)) : __builtin_inff();
  for (int64_t i = 0; i < count; ++i) clipped[i] = clamp(values[i], -limit, limit);
}

// Return the bucket as it is quantised: clipped into `scratch` when asked, else as it is.
inline const float* prepared(const float* values, int64_t count, const Quantiser& quantiser, float* scratch) {
  if (quantiser.clip <= 0) return values;
  clip_bucket(values, count, quantiser.clip, scratch);
  return scratch;
}

template <int B>
void encode_bits(const float* values, int64_t elements, const Quantiser& quantiser, const Table& table, StreamKey key,
                 uint32_t first_element, float* scratch, float* norms, uint32_t* words) {
  alignas(64) uint32_t codes[kTile + W] = {};
  const Floats low = Floats{} + table.levels[0], high = Floats{} + table.levels[table.count - 1];
  const Words offsets = iota();
  int filled = 0;  // codes of the open tile
  for (int64_t start = 0; start < elements; start += quantiser.bucket_size) {
    const int64_t size = elements - start < quantiser.bucket_size ? elements - start : quantiser.bucket_size;
    const float* bucket = prepared(values + start, size, quantiser, scratch);
    const float scale = bucket_norm(bucket, size, quantiser.maximum_norm);
    *norms++ = scale;
    const bool silent = !(scale > 0);  // zero or NaN: any code decodes right, so send zeros
    const Floats norm = Floats{} + scale;
    for (int64_t done = 0; done < size;) {
      const int64_t room = kTile - filled, rest = size - done, count = rest < room ? rest : room;
      uint32_t* out = codes + filled;
      if (silent) {
        for (int64_t i = 0; i < count; ++i) out[i] = 0;
      } else {
        const Words index = offsets + (first_element + static_cast<uint32_t>(start + done));
        int64_t i = 0;
        for (; i + W <= count; i += W)
          store(out + i, quantise<B>(load<Floats>(bucket + done + i), norm, table, low, high, key,
                                     index + static_cast<uint32_t>(i)));
        if (i < count) {
          Floats tail = {};
          __builtin_memcpy(&tail, bucket + done + i, 4 * (count - i));
          const Words code = quantise<B>(tail, norm, table, low, high, key, index + static_cast<uint32_t>(i));
          __builtin_memcpy(out + i, &code, 4 * (count - i));
        }
      }
      done += count;
      filled += static_cast<int>(count);
      if (filled == kTile) {
        pack_rows<B>(codes, kRows, words);
        words += B * kLanes;
        filled = 0;
      }
    }
  }
  if (filled) {
    const int rows = (filled + kLanes - 1) / kLanes;
    for (int i = filled; i < rows * kLanes; ++i) codes[i] = 0;
    pack_rows<B>(codes, rows, words);
  }
}

// Add norm * level of `rows` packed rows to `sums`; `scales` is one norm an element, or one a row.
template <int B, bool scale_per_row>
ALQ_INLINE void accumulate_rows(const uint32_t* words, int rows, const float* levels, const float* scales, float* sums) {
  for (int lane = 0; lane < kLanes; lane += W) {
    const uint32_t* in = words + lane;
    Words word = load<Words>(in);
    int shift = 0;
    for (int row = 0; row < rows; ++row) {
      Words code = word >> shift;
      shift += B;
      if (shift > 32 || (shift == 32 && row + 1 < rows)) {
        in += kLanes;
        word = load<Words>(in);
        shift -= 32;
        if (shift) code |= word << (B - shift);
      }
      const Floats level = lookup<B>(levels, (Ints)(code & ((1u << B) - 1u)));
      float* sum = sums + row * kLanes + lane;
      const Floats norm = scale_per_row ? Floats{} + scales[row] : load<Floats>(scales + row * kLanes + lane);
      store(sum, load<Floats>(sum) + dequantise(norm, level));
    }
  }
}

template <int B>
void decode_bits(const uint8_t* const* records, int count, int64_t elements, const Quantiser& quantiser,
                 const Table& table, size_t norms_offset, size_t codes_offset, float scale, float* out) {
  const bool per_row = quantiser.bucket_size % kLanes == 0;
  alignas(64) float sums[kTile], scales[kTile], levels[256];
  // Codes beyond the table decode to its last level, so that damaged bytes still give finite numbers.
  for (int i = 0; i < 256; ++i) levels[i] = table.levels[i < table.count ? i : table.count - 1];
  const int64_t stride = per_row ? kLanes : 1;
  for (int64_t start = 0, tile = 0; start < elements; start += kTile, ++tile) {
    const int64_t size = elements - start < kTile ? elements - start : kTile;
    const int rows = static_cast<int>((size + kLanes - 1) / kLanes);
    for (int i = 0; i < kTile; ++i) sums[i] = 0;
    for (int r = 0; r < count; ++r) {
      const float* norms = reinterpret_cast<const float*>(records[r] + norms_offset);
      const uint32_t* words = reinterpret_cast<const uint32_t*>(records[r] + codes_offset) + tile * B * kLanes;
      int64_t bucket = start / quantiser.bucket_size, left = quantiser.bucket_size - start % quantiser.bucket_size;
      const int64_t wanted = per_row ? rows : size;
      for (int64_t i = 0; i < wanted; ++i) {
        scales[i] = norms[bucket];
        left -= stride;
        if (left <= 0 && i + 1 < wanted) {
          ++bucket;
          left = quantiser.bucket_size;
        }
      }
      if (!per_row)
        for (int64_t i = size; i < rows * kLanes; ++i) scales[i] = 0;
      if (rows == kRows && per_row)
        accumulate_rows<B, true>(words, kRows, levels, scales, sums);
      else if (per_row)
        accumulate_rows<B, true>(words, rows, levels, scales, sums);
      else
        accumulate_rows<B, false>(words, rows, levels, scales, sums);
    }
    for (int64_t i = 0; i < size; ++i) out[start + i] = scale * sums[i];
  }
}

inline void gather_statistics(const float* values, int64_t elements, const Quantiser& quantiser, const Histogram& histogram,
                              float* scratch, BucketMoments* moments) {
  const int log2 = histogram.bins_per_octave_log2, first = (127 - histogram.octaves) << log2;
  const int side = (histogram.octaves << log2) + 1;
  for (int64_t start = 0; start < elements; start += quantiser.bucket_size, ++moments) {
    const int64_t size = elements - start < quantiser.bucket_size ? elements - start : quantiser.bucket_size;
    const float* bucket = prepared(values + start, size, quantiser, scratch);
    const float norm = bucket_norm(bucket, size, quantiser.maximum_norm);
    *moments = {norm, 0, 0, 0};
    if (!(norm > 0)) continue;
    double weight = 1;
    for (int i = 0; i < histogram.weight_exponent; ++i) weight *= norm;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; ++i) {
      const float normalised = bucket[i] / norm;
      uint32_t bits;
      __builtin_memcpy(&bits, &normalised, 4);
      int bin = static_cast<int>((bits & 0x7fffffffu) >> (23 - log2)) - first + 1;
      bin = bin < 0 ? 0 : bin > side - 1 ? side - 1 : bin;
      const int index = normalised < 0 ? side - 1 - bin : side + bin;
      histogram.mass[index] += weight;
      histogram.first_moment[index] += weight * normalised;
      sum += normalised;
      squares += static_cast<double>(normalised) * normalised;
    }
    const double mean = sum / static_cast<double>(size);
    double deviations = 0;
    for (int64_t i = 0; i < size; ++i) {
      const double deviation = static_cast<double>(bucket[i] / norm) - mean;
      deviations += deviation * deviation;
    }
    *moments = {norm, sum, deviations, squares};
  }
}

inline void encode_any(const float* values, int64_t elements, const Quantiser& quantiser, const Table& table,
                       StreamKey key, uint32_t first_element, float* scratch, float* norms, uint32_t* words) {
  constexpr decltype(&encode_bits<1>) by_bits[] = {encode_bits<1>, encode_bits<2>, encode_bits<3>, encode_bits<4>,
                                                   encode_bits<5>, encode_bits<6>, encode_bits<7>, encode_bits<8>};
  by_bits[quantiser.bits - 1](values, elements, quantiser, table, key, first_element, scratch, norms, words);
}

inline void decode_any(const uint8_t* const* records, int count, int64_t elements, const Quantiser& quantiser,
                       const Table& table, size_t norms_offset, size_t codes_offset, float scale, float* out) {
  constexpr decltype(&decode_bits<1>) by_bits[] = {decode_bits<1>, decode_bits<2>, decode_bits<3>, decode_bits<4>,
                                                   decode_bits<5>, decode_bits<6>, decode_bits<7>, decode_bits<8>};
  by_bits[quantiser.bits - 1](records, count, elements, quantiser, table, norms_offset, codes_offset, scale, out);
}
