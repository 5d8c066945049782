// Records whose blocks have a width each to scaled sums. Included by kernels_impl.h; no include guard on purpose.

using AddTile = void (*)(const uint8_t* norms, const uint8_t* words, int64_t start, int64_t size, int64_t bucket_size,
                         const float* levels, const Redrawn&, float* scales, float* sums);

template <int B, bool dithered>
void add_tile_apart(const uint8_t* norms, const uint8_t* words, int64_t start, int64_t size, int64_t bucket_size,
                    const float* levels, const Redrawn& redrawn, float* scales, float* sums) {
  add_tile<B, dithered>(norms, words, start, size, bucket_size, levels, redrawn, scales, sums);
}

template <bool dithered>
ALQ_INLINE AddTile add_tile_of(int width) {
  constexpr AddTile by_width[] = {add_tile_apart<1, dithered>, add_tile_apart<2, dithered>, add_tile_apart<3, dithered>,
                                  add_tile_apart<4, dithered>, add_tile_apart<5, dithered>, add_tile_apart<6, dithered>,
                                  add_tile_apart<7, dithered>, add_tile_apart<8, dithered>};
  return by_width[width - 1];
}

// Make NaN of the sums of broken buckets in a tile without codes; return whether there is one.
inline bool add_broken(const uint8_t* norms, int64_t start, int64_t size, int64_t bucket_size, float* sums) {
  bool found = false;
  for (int64_t i = 0; i < size;) {
    const int64_t bucket = (start + i) / bucket_size, next = (bucket + 1) * bucket_size - start;
    const int64_t stop = next < size ? next : size;
    float norm;
    __builtin_memcpy(&norm, norms + 4 * bucket, 4);
    if (norm - norm == 0) {
      i = stop;
      continue;
    }
    found = true;
    for (; i < stop; ++i) sums[i] = __builtin_nanf("");
  }
  return found;
}

// Write scale * sum over records for the elements begin <= e < end; begin is a multiple of kTile. Return whether any record
// has codes there, or a broken bucket: without either, all is zero.
template <bool dithered>
bool sum_by_width(const PlacedRecord* records, int count, int64_t begin, int64_t end, const Quantiser& quantiser,
                  const Table* by_width, RecordOffsets offsets, float scale, float* out) {
  const int64_t bucket_size = quantiser.bucket_size, block_size = block_size_of(bucket_size);
  const bool past_cache = end - begin > kCachedElements;
  bool any = false;
  alignas(64) float sums[kTile], scales[kTile];
  int64_t block = begin / block_size, tile = begin % block_size / kTile;  // counted on: dividing is slow
  for (int64_t start = begin; start < end; start += kTile) {
    const int64_t size = end - start < kTile ? end - start : kTile;
    for (int i = 0; i < kTile; ++i) sums[i] = 0;
    for (int r = 0; r < count; ++r) {
      const auto& [bytes, widths, rows] = records[r];
      const int width = widths[block];
      if (!width) {
        any |= add_broken(bytes + offsets.norms, start, size, bucket_size, sums);
        continue;
      }
      any = true;
      const Table& table = by_width[width];
      const uint8_t* words = bytes + offsets.codes + (rows[block] + tile * width) * (4 * kLanes);
      const Redrawn redrawn = dithered ? redrawn_from(bytes, offsets, start, table.dither) : Redrawn{};
      add_tile_of<dithered>(width)(bytes + offsets.norms, words, start, size, bucket_size, table.decoded, redrawn, scales,
                                   sums);
    }
    write_scaled(sums, size, scale, past_cache, out + start);
    if (++tile * kTile == block_size) {
      tile = 0;
      ++block;
    }
  }
  return any;
}

// See Kernels. Rotated buckets are added up block by block; one in which nobody has codes needs no way back.
inline void decode_by_width(const PlacedRecord* records, int count, int64_t begin, int64_t end, const Quantiser& quantiser,
                            const Table* by_width, RecordOffsets offsets, float scale, float* scratch, float* out) {
  bool dithers = false;
  for (int width = 1; width <= 8; ++width) dithers |= by_width[width].dither > 0;
  const auto sum = dithers ? sum_by_width<true> : sum_by_width<false>;
  if (!quantiser.rounds) {
    sum(records, count, begin, end, quantiser, by_width, offsets, scale, out);
    return;
  }
  const int64_t block_size = block_size_of(quantiser.bucket_size);
  for (int64_t start = begin; start < end; start += block_size) {
    const int64_t size = end - start < block_size ? end - start : block_size;
    float* total = out + start;
    if (!count) __builtin_memset(total, 0, 4 * size);
    for (int run = 0, next; run < count; run = next) {
      const RecordSigns signs = signs_of(records[run].bytes, offsets);
      for (next = run + 1; next < count && same_signs(signs, signs_of(records[next].bytes, offsets));) ++next;
      float* part = run ? scratch : total;
      if (sum(records + run, next - run, start, start + size, quantiser, by_width, offsets, 1.0f, part - start))
        rotate_part_back(part, start, size, quantiser, signs);
      add_run(part, size, run, next == count ? scale : 1.0f, total);
    }
  }
}
