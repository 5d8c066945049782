// Vectors of W floats and what they can look up. Included by kernels_impl.h inside a namespace and under an instruction
// set; no include guard on purpose. Plain operators are GCC/Clang vector extensions; only table look-ups and fused
// multiply-adds, which these lack, are intrinsics.

constexpr int W = ALQ_WIDTH;
constexpr int H = W / 2;  // float64 lanes of one register
typedef float Floats __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef float HalfFloats __attribute__((vector_size(4 * H)));
typedef double Doubles __attribute__((vector_size(8 * H)));

template <typename Vector, typename Scalar>
ALQ_INLINE Vector load(const Scalar* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename Vector, typename Scalar>
ALQ_INLINE void store(Scalar* to, const Vector& v) {
  __builtin_memcpy(to, &v, sizeof v);
}

ALQ_INLINE Words iota() {
  Words v;
  for (int i = 0; i < W; ++i) v[i] = i;
  return v;
}

// Return table[index[i]] for each lane, 0 <= index < size: register permutations while they are cheaper than loads.
template <int size>
ALQ_INLINE Floats lookup(const float* table, Ints index) {
#if ALQ_WIDTH == 16
  if constexpr (size <= 16) {
    return (Floats)_mm512_permutexvar_ps((__m512i)index, (__m512)load<Floats>(table));
  } else if constexpr (size == 32) {
    return (Floats)_mm512_permutex2var_ps((__m512)load<Floats>(table), (__m512i)index, (__m512)load<Floats>(table + 16));
  } else {
    const Floats low = lookup<size / 2>(table, index), high = lookup<size / 2>(table + size / 2, index);
    return (index & (size / 2)) != 0 ? high : low;
  }
#elif ALQ_WIDTH == 8
  if constexpr (size <= 8) {
    return (Floats)_mm256_permutevar8x32_ps((__m256)load<Floats>(table), (__m256i)index);
  } else if constexpr (size <= 32) {
    const Floats low = lookup<size / 2>(table, index), high = lookup<size / 2>(table + size / 2, index);
    return (index & (size / 2)) != 0 ? high : low;
  } else {
    return (Floats)_mm256_i32gather_ps(table, (__m256i)index, 4);
  }
#else
  Floats v;
  for (int i = 0; i < W; ++i) v[i] = table[index[i]];
  return v;
#endif
}

// Return a * b + c, rounded once.
#if ALQ_WIDTH == 16
ALQ_INLINE Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif ALQ_WIDTH == 8
ALQ_INLINE Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#endif

// Store to an aligned address without fetching the line into the cache.
#if ALQ_WIDTH == 16
ALQ_INLINE void stream(float* to, Floats v) { _mm512_stream_ps(to, (__m512)v); }
#elif ALQ_WIDTH == 8
ALQ_INLINE void stream(float* to, Floats v) { _mm256_stream_ps(to, (__m256)v); }
#elif defined(__x86_64__)
ALQ_INLINE void stream(float* to, Floats v) { _mm_stream_ps(to, (__m128)v); }
#endif
