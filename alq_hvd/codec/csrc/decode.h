// Packed codes to scaled sums. Included by kernels_impl.h; no include guard on purpose.

// What a record's draws are made of again, from one element on.
struct Redrawn {
  StreamKey key;
  uint32_t element;
  float width;
};

// Add norm * level of `rows` packed rows to `sums`; `scales` is one norm an element, or one a row. Where `dithered`, the
// dither is added to the levels first.
template <int B, bool scale_per_row, bool dithered>
ALQ_INLINE void accumulate_rows(const uint8_t* packed, int rows, const float* levels, const float* scales,
                                const Redrawn& redrawn, float* sums) {
  for (int lane = 0; lane < kLanes; lane += W) {
    Words weyl = weyl_number(redrawn.key, iota() + (redrawn.element + lane));
    const uint8_t* in = packed + 4 * lane;
    Words word = load<Words>(in);
    int shift = 0;
    for (int row = 0; row < rows; ++row) {
      Words code = word >> shift;
      shift += B;
      if (shift > 32 || (shift == 32 && row + 1 < rows)) {
        in += 4 * kLanes;
        word = load<Words>(in);
        shift -= 32;
        if (shift) code |= word << (B - shift);
      }
      Floats level = lookup<1 << B>(levels, (Ints)(code & ((1u << B) - 1u)));
      if (dithered) {
        const Floats draw = __builtin_convertvector((Ints)(random_bits(redrawn.key, weyl) >> 8), Floats);
        level = level + (draw - kMeanDraw) * redrawn.width;
        weyl += kLanes * kWeylStep;
      }
      float* sum = sums + row * kLanes + lane;
      const Floats norm = scale_per_row ? Floats{} + scales[row] : load<Floats>(scales + row * kLanes + lane);
      store(sum, load<Floats>(sum) + dequantise(norm, level));
    }
  }
}

// Write the norm of each of `count` groups of `group` elements from element `start` on, which buckets do not split.
inline void spread_norms(const uint8_t* norms, int64_t start, int64_t bucket_size, int64_t group, int64_t count,
                         float* scales) {
  int64_t bucket = start / bucket_size, left = bucket_size - start % bucket_size;
  for (int64_t i = 0; i < count;) {
    const int64_t run = left / group < count - i ? left / group : count - i;
    float norm;
    __builtin_memcpy(&norm, norms + 4 * bucket, 4);
    for (int64_t k = 0; k < run; ++k) scales[i + k] = norm;
    i += run;
    ++bucket;
    left = bucket_size;
  }
}

// Write scale * sums. Results larger than a cache are written past it: fetching the lines that are about to be overwritten
// would cost as much as writing them.
ALQ_INLINE void write_scaled(const float* sums, int64_t size, float scale, bool past_cache, float* out) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (past_cache) {
    for (; i < size && reinterpret_cast<uintptr_t>(out + i) % sizeof(Floats); ++i) out[i] = scale * sums[i];
    for (; i + W <= size; i += W) stream(out + i, scale * load<Floats>(sums + i));
  }
#endif
  for (; i < size; ++i) out[i] = scale * sums[i];
}

constexpr int64_t kCachedElements = 1 << 20;

// Return what names the draws of a record, for the elements from `start` on.
inline Redrawn redrawn_from(const uint8_t* record, RecordOffsets offsets, int64_t start, float width) {
  uint32_t named[3];
  __builtin_memcpy(named, record + offsets.draws, sizeof named);
  return {{named[0], named[1]}, named[2] + static_cast<uint32_t>(offsets.skipped + start), width};
}

// Add the `size` coordinates of one record's tile to `sums`; `scales` float32[kTile] is overwritten.
template <int B, bool dithered>
ALQ_INLINE void add_tile(const uint8_t* norms, const uint8_t* words, int64_t start, int64_t size, int64_t bucket_size,
                         const float* levels, const Redrawn& redrawn, float* scales, float* sums) {
  const int rows = static_cast<int>((size + kLanes - 1) / kLanes);
  if (bucket_size % kLanes == 0) {
    spread_norms(norms, start, bucket_size, kLanes, rows, scales);
    if (rows == kRows)
      accumulate_rows<B, true, dithered>(words, kRows, levels, scales, redrawn, sums);
    else
      accumulate_rows<B, true, dithered>(words, rows, levels, scales, redrawn, sums);
  } else {
    spread_norms(norms, start, bucket_size, 1, size, scales);
    for (int64_t i = size; i < rows * kLanes; ++i) scales[i] = 0;
    accumulate_rows<B, false, dithered>(words, rows, levels, scales, redrawn, sums);
  }
}

template <int B, bool dithered>
void decode_bits(const uint8_t* const* records, int count, int64_t begin, int64_t end, const Quantiser& quantiser,
                 const Table& table, RecordOffsets offsets, float scale, float* out) {
  alignas(64) float sums[kTile], scales[kTile];
  const bool past_cache = end - begin > kCachedElements;
  for (int64_t start = begin; start < end; start += kTile) {
    const int64_t size = end - start < kTile ? end - start : kTile;
    for (int i = 0; i < kTile; ++i) sums[i] = 0;
    for (int r = 0; r < count; ++r) {
      const uint8_t* words = records[r] + offsets.codes + start / kTile * (4 * B * kLanes);
      const Redrawn redrawn = dithered ? redrawn_from(records[r], offsets, start, table.dither) : Redrawn{};
      add_tile<B, dithered>(records[r] + offsets.norms, words, start, size, quantiser.bucket_size, table.decoded, redrawn,
                            scales, sums);
    }
    write_scaled(sums, size, scale, past_cache, out + start);
  }
}

template <bool dithered>
ALQ_INLINE auto decode_table(int bits) {
  constexpr decltype(&decode_bits<1, dithered>) by_bits[] = {
      decode_bits<1, dithered>, decode_bits<2, dithered>, decode_bits<3, dithered>, decode_bits<4, dithered>,
      decode_bits<5, dithered>, decode_bits<6, dithered>, decode_bits<7, dithered>, decode_bits<8, dithered>};
  return by_bits[bits - 1];
}

inline void decode_any(const uint8_t* const* records, int count, int64_t begin, int64_t end, const Quantiser& quantiser,
                       const Table& table, RecordOffsets offsets, float scale, float* out) {
  const auto decode = table.dither > 0 ? decode_table<true>(quantiser.bits) : decode_table<false>(quantiser.bits);
  decode(records, count, begin, end, quantiser, table, offsets, scale, out);
}
