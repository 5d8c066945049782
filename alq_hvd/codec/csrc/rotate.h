// The rotation of buckets, and back. Included by kernels_impl.h; no include guard on purpose.
//
// The stages of one Walsh-Hadamard transform pair coordinates at distance 1, 2, 4, ... in that order, which is part of the
// wire format. Their order alone decides the result, so a pass may take several stages at once: the first as many as
// fit the registers, with signs and scale on the way in, each later one three.

constexpr int kGroup = W == 16 ? 16 : 8;  // vectors of the first pass
constexpr int64_t kGroupElements = kGroup * W;
constexpr uint32_t kSignBit = 0x80000000u;

// Return v[i ^ distance] in lane i.
template <int distance>
ALQ_INLINE Floats exchange_lanes(const Floats& v) {
#if defined(__clang__)
  Floats result;
  for (int i = 0; i < W; ++i) result[i] = v[i ^ distance];
  return result;
#else
  return __builtin_shuffle(v, (Ints)(iota() ^ distance));
#endif
}

// The stages of distance 1 to W / 2, inside one vector: a + b in lane i, and in lane i + distance a - b, as a + (-b).
template <int distance = 1>
ALQ_INLINE Floats stages_within(const Floats& v) {
  if constexpr (distance < W) {
    const Words negate = (Words)((iota() & distance) != 0) & kSignBit;
    return stages_within<2 * distance>(exchange_lanes<distance>(v) + (Floats)((Words)v ^ negate));
  } else {
    return v;
  }
}

// The stages `distance`, 2 distance, ... N distance / 2 of `size` coordinates.
template <int N>
inline void later_stages(float* x, int64_t size, int64_t distance) {
  for (int64_t base = 0; base < size; base += N * distance)
    for (int64_t j = base; j < base + distance; j += W) {
      Floats v[N];
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) v[k] = load<Floats>(x + j + k * distance);
      stages_across<N>(v);
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) store(x + j + k * distance, v[k]);
    }
}

// Signs of the blocks of a bucket.
struct Signs {
  StreamKey key;
  uint32_t first;  // element of the fusion group at which the bucket starts
  int turn;

  // Write the 32 sign words of a tile.
  ALQ_INLINE void words(int64_t tile, Words* out) const {
    for (int k = 0; k < kLanes / W; ++k)
      out[k] = sign_words(key, first, turn, static_cast<uint32_t>(tile), iota() + static_cast<uint32_t>(k * W));
  }
};

// Write `scale` times `size` coordinates, with their signs changed; `size` need not be a power of two here.
inline void change_signs(const float* from, int64_t size, float scale, const Signs& signs, float* to) {
  for (int64_t tile = 0; tile * kTile < size; ++tile) {
    alignas(64) uint32_t words[kLanes];
    Words fresh[kLanes / W];
    signs.words(tile, fresh);
    __builtin_memcpy(words, fresh, sizeof words);
    const int64_t start = tile * kTile, end = start + kTile < size ? start + kTile : size;
    int64_t i = start;
    for (int row = 0; i + kLanes <= end; ++row)
      for (int k = 0; k < kLanes / W; ++k, i += W) {
        const Words flip = fresh[k] << (31 - row) & kSignBit;
        store(to + i, (Floats)((Words)(load<Floats>(from + i) * scale) ^ flip));
      }
    for (const int64_t row = (i - start) / kLanes; i < end; ++i) {
      const float scaled = from[i] * scale;
      to[i] = words[(i - start) % kLanes] >> row & 1 ? -scaled : scaled;
    }
  }
}

// The first pass of a block of at least kGroupElements: scale, signs unless null, and the stages up to half a group.
template <bool with_signs>
inline void first_stages(const float* from, int64_t size, float scale, const Signs& signs, float* to) {
  Words words[kLanes / W] = {};
  for (int64_t i = 0; i < size; i += kGroupElements) {
    Floats v[kGroup];
    if (with_signs && i % kTile == 0) signs.words(i / kTile, words);
    const int row = static_cast<int>(i % kTile / kLanes);
    Words rows[kLanes / W];
    for (int k = 0; k < kLanes / W; ++k) rows[k] = words[k] >> row;
#pragma GCC unroll 16
    for (int k = 0; k < kGroup; ++k) {
      Floats x = load<Floats>(from + i + k * W) * scale;
      if (with_signs) x = (Floats)((Words)x ^ (rows[k % (kLanes / W)] << (31 - k * W / kLanes) & kSignBit));
      v[k] = stages_within(x);
    }
    stages_across<kGroup>(v);
#pragma GCC unroll 16
    for (int k = 0; k < kGroup; ++k) store(to + i + k * W, v[k]);
  }
}

// Transform a block of 2^log2 coordinates; on the way back the signs come last. `from` may be `to`.
template <bool back>
inline void transform_block(const float* from, int log2, const Signs& signs, float* to) {
  const int64_t size = int64_t{1} << log2;
  const float scale = block_scale(log2, back);
  int64_t distance = 1;
  if (size >= kGroupElements) {
    first_stages<!back>(from, size, scale, signs, to);
    distance = kGroupElements;
    for (; 8 * distance <= size; distance *= 8) later_stages<8>(to, size, distance);
    if (4 * distance == size) later_stages<4>(to, size, distance);
    if (2 * distance == size) later_stages<2>(to, size, distance);
  } else {
    if (!back) change_signs(from, size, scale, signs, to);
    if (back)
      for (int64_t i = 0; i < size; ++i) to[i] = from[i] * scale;
    for (; distance < size; distance *= 2)
      for (int64_t base = 0; base < size; base += 2 * distance)
        for (int64_t i = base; i < base + distance; ++i) {
          const float a = to[i], b = to[i + distance];
          to[i] = a + b;
          to[i + distance] = a - b;
        }
  }
  if (back) change_signs(to, size, 1.0f, signs, to);
}

inline void multiply(float* x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

// Rotate one bucket of `size` coordinates that starts at element `first`.
inline void rotate_bucket(const float* from, int64_t size, int rounds, StreamKey key, uint32_t first, float* to) {
  const int log2 = block_log2(size);
  const int64_t block = int64_t{1} << log2;
  for (int turn = 0; turn < 2 * rounds; turn += 2, from = to) {
    if (block < size && from != to) __builtin_memcpy(to + block, from + block, 4 * (size - block));
    transform_block<false>(from, log2, {key, first, turn}, to);
    if (block == size) continue;
    if (log2 % 2) multiply(to + block, size - block, kSqrtHalf);
    transform_block<false>(to + size - block, log2, {key, first, turn + 1}, to + size - block);
    if (log2 % 2) multiply(to, size - block, kSqrtHalf);
  }
}

// Undo rotate_bucket in place, up to rounding.
inline void rotate_bucket_back(float* x, int64_t size, int rounds, StreamKey key, uint32_t first) {
  const int log2 = block_log2(size);
  const int64_t block = int64_t{1} << log2;
  for (int turn = 2 * rounds - 2; turn >= 0; turn -= 2) {
    if (block < size) {
      if (log2 % 2) multiply(x, size - block, kSqrtTwo);
      transform_block<true>(x + size - block, log2, {key, first, turn + 1}, x + size - block);
      if (log2 % 2) multiply(x + block, size - block, kSqrtTwo);
    }
    transform_block<true>(x, log2, {key, first, turn}, x);
  }
}
