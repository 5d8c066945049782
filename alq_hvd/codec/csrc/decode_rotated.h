// Packed codes of rotated buckets to scaled sums. Included by kernels_impl.h; no include guard on purpose.

// What names the signs of a record.
struct RecordSigns {
  uint32_t first_key, second_key, first_element, zero;
};

inline RecordSigns signs_of(const uint8_t* record, RecordOffsets offsets) {
  RecordSigns signs;
  __builtin_memcpy(&signs, record + offsets.signs, kRotationBytes);
  return signs;
}

inline bool same_signs(const RecordSigns& one, const RecordSigns& other) {
  return !__builtin_memcmp(&one, &other, sizeof one);
}

// Rotate back the whole buckets of `part`, which starts at element `start` of the record.
inline void rotate_part_back(float* part, int64_t start, int64_t size, const Quantiser& quantiser, const RecordSigns& signs) {
  for (int64_t at = 0; at < size; at += quantiser.bucket_size) {
    const int64_t bucket = size - at < quantiser.bucket_size ? size - at : quantiser.bucket_size;
    const uint32_t first = signs.first_element + static_cast<uint32_t>(start + at);
    rotate_bucket_back(part + at, bucket, quantiser.rounds, {signs.first_key, signs.second_key}, first);
  }
}

// Add what a run of records of the same signs has come to; the first run, which stands in `total`, becomes it.
inline void add_run(const float* part, int64_t size, int run, float factor, float* total) {
  if (run)
    for (int64_t i = 0; i < size; ++i) total[i] = (total[i] + part[i]) * factor;
  else
    for (int64_t i = 0; i < size; ++i) total[i] = (0.0f + part[i]) * factor;  // -0 becomes 0, as in a sum
}

// Write scale * sum over records for the elements begin <= e < end, a range of whole buckets and tiles but for the last
// of the record. Neighbouring records of the same signs are added first and rotated back once. `scratch`
// float32[strip] is used where there are several such runs; a strip is the least range of whole buckets and tiles.
inline void decode_rotated(const uint8_t* const* records, int count, int64_t begin, int64_t end,
                           const Quantiser& quantiser, const Table& table, RecordOffsets offsets, float scale,
                           int64_t strip, float* scratch, float* out) {
  for (int64_t start = begin; start < end; start += strip) {
    const int64_t size = end - start < strip ? end - start : strip;
    const RecordOffsets shifted = {offsets.norms + 4 * (start / quantiser.bucket_size),
                                   offsets.codes + start / kTile * (4 * quantiser.bits * kLanes), offsets.signs,
                                   offsets.draws, start};
    float* total = out + start;
    if (!count) __builtin_memset(total, 0, 4 * size);
    for (int run = 0, next; run < count; run = next) {
      const RecordSigns signs = signs_of(records[run], offsets);
      for (next = run + 1; next < count && same_signs(signs, signs_of(records[next], offsets));) ++next;
      float* part = run ? scratch : total;
      decode_any(records + run, next - run, 0, size, quantiser, table, shifted, 1.0f, part);
      rotate_part_back(part, start, size, quantiser, signs);
      add_run(part, size, run, next == count ? scale : 1.0f, total);
    }
  }
}
