// Norms of buckets, and clipping. Included by kernels_impl.h; no include guard on purpose.

struct BucketSums {
  double sum, squares;
};

// Add rows of kSumLanes values, one sum a lane, for the lanes begin <= lane < end: `registers` vectors at once, so that
// additions do not wait for each other and every row is read in whole cache lines.
template <bool with_sum, int registers>
ALQ_INLINE int64_t sum_lanes(const float* values, int64_t rows, int64_t begin, int64_t end, double* sums,
                             double* squares) {
  int64_t lane = begin;
  for (; lane + registers * H <= end; lane += registers * H) {
    Doubles sum[registers] = {}, square[registers] = {};
    const float* row = values + lane;
    for (int64_t i = 0; i < rows; ++i, row += kSumLanes)
      for (int k = 0; k < registers; ++k) {
        const Doubles x = __builtin_convertvector(load<HalfFloats>(row + k * H), Doubles);
        square[k] += x * x;
        if (with_sum) sum[k] += x;
      }
    for (int k = 0; k < registers; ++k) {
      store(squares + lane + k * H, square[k]);
      if (with_sum) store(sums + lane + k * H, sum[k]);
    }
  }
  return lane;
}

// Sum values and squares of a bucket in the order that quantise.h fixes.
template <bool with_sum>
inline BucketSums bucket_sums(const float* values, int64_t count) {
  alignas(64) double sums[kSumLanes], squares[kSumLanes];
  const int64_t rows = count / kSumLanes, rest = count % kSumLanes, used = rows ? kSumLanes : rest;
  if (rows) sum_lanes<with_sum, 8>(values, rows, 0, kSumLanes, sums, squares);
  const float* tail = values + rows * kSumLanes;
  for (int64_t i = 0; i < rest; ++i) {  // the short last row
    const double x = tail[i], square = x * x;
    squares[i] = rows ? squares[i] + square : square;
    if (with_sum) sums[i] = rows ? sums[i] + x : x;
  }
  int64_t half = kSumLanes / 2;
  while (half >= used && half > 0) half /= 2;  // folding these would add zeros only
  for (int64_t i = used; i < 2 * half; ++i) squares[i] = sums[i] = 0;
  for (; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) {
      squares[i] += squares[i + half];
      if (with_sum) sums[i] += sums[i + half];
    }
  return {with_sum ? sums[0] : 0.0, squares[0]};
}

// Return the sum of products of two buckets in the same order.
inline double bucket_products(const float* values, const float* others, int64_t count) {
  alignas(64) double sums[kSumLanes] = {};
  for (int64_t row = 0; row < count; row += kSumLanes) {
    const int64_t width = count - row < kSumLanes ? count - row : kSumLanes;
    for (int64_t i = 0; i < width; ++i)
      sums[i] += static_cast<double>(values[row + i]) * static_cast<double>(others[row + i]);
  }
  for (int half = kSumLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

// Return the largest magnitude, or NaN when any value is NaN or infinite. The order of magnitudes is that of their bits.
inline float largest_magnitude(const float* values, int64_t count) {
  constexpr int registers = 4;
  Ints most[registers] = {};
  int64_t i = 0;
  for (; i + registers * W <= count; i += registers * W)
    for (int k = 0; k < registers; ++k) {
      const Ints magnitude = load<Ints>(values + i + k * W) & 0x7fffffff;
      most[k] = most[k] > magnitude ? most[k] : magnitude;
    }
  int32_t result = 0;
  for (int k = 0; k < registers * W; ++k) {
    const int32_t magnitude = most[k / W][k % W];
    result = result > magnitude ? result : magnitude;
  }
  for (; i < count; ++i) {
    int32_t magnitude;
    __builtin_memcpy(&magnitude, values + i, 4);
    magnitude &= 0x7fffffff;
    result = result > magnitude ? result : magnitude;
  }
  if (result >= 0x7f800000) return __builtin_nanf("");
  float norm;
  __builtin_memcpy(&norm, &result, 4);
  return norm;
}

// Return a norm as it is sent: NaN for a bucket that is not finite, 0 for one too small to normalise.
inline float sendable(float norm) {
  if (!(norm <= kLargestNorm)) return __builtin_nanf("");
  return norm < kSmallestNorm ? 0.0f : norm;
}

inline float bucket_norm(const float* values, int64_t count, bool maximum) {
  const float norm = maximum ? largest_magnitude(values, count)
                             : static_cast<float>(__builtin_sqrt(bucket_sums<false>(values, count).squares));
  return sendable(norm);
}

// Clamp a bucket to `clip` standard deviations into `clipped`; a bucket without spread is copied as it is.
inline void clip_bucket(const float* values, int64_t count, double clip, float* clipped) {
  const BucketSums sums = bucket_sums<true>(values, count);
  const double mean = sums.sum / static_cast<double>(count);
  const double variance = sums.squares / static_cast<double>(count) - mean * mean;
  const float limit = variance > 0 ? static_cast<float>(clip * __builtin_sqrt(variance)) : __builtin_inff();
  for (int64_t i = 0; i < count; ++i) clipped[i] = clamp(values[i], -limit, limit);
}

// Return the bucket as it is quantised: rotated and clipped into `scratch` when asked, else as it is. `first` is the
// element at which it starts.
inline const float* prepared(const float* values, int64_t count, const Quantiser& quantiser, uint32_t first,
                             float* scratch) {
  if (quantiser.rounds) {
    rotate_bucket(values, count, quantiser.rounds, quantiser.signs, first, scratch);
    values = scratch;
  }
  if (quantiser.clip <= 0) return values;
  clip_bucket(values, count, quantiser.clip, scratch);
  return scratch;
}

// What the coordinates of a bucket are divided by, and, in rounding to the nearest, the sum of their squares.
struct Normaliser {
  float norm;
  double squares;
};

// Return the norm of a bucket or, in rounding to the nearest, a multiple of its standard deviation about zero.
inline Normaliser normaliser(const float* values, int64_t count, const Quantiser& quantiser) {
  if (quantiser.reach <= 0) return {bucket_norm(values, count, quantiser.maximum_norm), 0};
  const double squares = bucket_sums<false>(values, count).squares;
  const double deviation = __builtin_sqrt(squares / static_cast<double>(count));
  return {sendable(static_cast<float>(deviation * quantiser.reach)), squares};
}

// Return the scale that gives the decoded bucket the projection on the bucket that the bucket has, the normaliser where
// there is none. `chosen` are the levels of its codes.
inline float projection_scale(const float* values, const float* chosen, int64_t count, Normaliser unit) {
  const float scale = static_cast<float>(unit.squares / bucket_products(values, chosen, count));
  return scale >= kSmallestNorm && scale <= kLargestNorm ? scale : unit.norm;
}

// See Kernels.
inline void bucket_energies(const float* values, int64_t elements, const Quantiser& quantiser, float* scratch,
                            float* norms, double* energies) {
  for (int64_t start = 0; start < elements; start += quantiser.bucket_size, ++norms, ++energies) {
    const int64_t size = elements - start < quantiser.bucket_size ? elements - start : quantiser.bucket_size;
    if (quantiser.rounds) {
      *energies = bucket_sums<false>(values + start, size).squares;
      continue;
    }
    *norms = bucket_norm(prepared(values + start, size, quantiser, 0, scratch), size, quantiser.maximum_norm);
    *energies = static_cast<double>(*norms) * *norms;
  }
}
