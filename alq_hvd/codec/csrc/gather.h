// Values to the histogram and moments of their normalised coordinates. Included by kernels_impl.h; no include guard.

inline void gather_statistics(const float* values, int64_t elements, const Quantiser& quantiser, const Histogram& histogram,
                              float* scratch, BucketMoments* moments) {
  const int log2 = histogram.bins_per_octave_log2, first = (127 - histogram.octaves) << log2;
  const int side = (histogram.octaves << log2) + 1;
  for (int64_t start = 0; start < elements; start += quantiser.bucket_size, ++moments) {
    const int64_t size = elements - start < quantiser.bucket_size ? elements - start : quantiser.bucket_size;
    const float* bucket = prepared(values + start, size, quantiser, static_cast<uint32_t>(start), scratch);
    const float norm = normaliser(bucket, size, quantiser).norm;
    *moments = {norm, 0, 0, 0};
    if (!(norm > 0)) continue;
    double weight = 1;
    for (int i = 0; i < histogram.weight_exponent; ++i) weight *= norm;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; ++i) {
      const float normalised = clamp(bucket[i] / norm, -1.0f, 1.0f);
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
      const double deviation = static_cast<double>(clamp(bucket[i] / norm, -1.0f, 1.0f)) - mean;
      deviations += deviation * deviation;
    }
    *moments = {norm, sum, deviations, squares};
  }
}
