// The CUDA kernels behind plain C functions, for tests/unit/test_cuda_arithmetic.py to call with NumPy arrays.
#include "codec.cu"

#include "table.h"

namespace {

template <int B = 1, typename F>
void with_bits(int bits, const F& f) {
  if constexpr (B <= 8) {
    if (bits == B)
      f(std::integral_constant<int, B>());
    else
      with_bits<B + 1>(bits, f);
  }
}

template <typename F>
void with_type(int type, const F& f) {
  if (type == 0) f(float());
  if (type == 1) f(alq::Half());
  if (type == 2) f(alq::Brain());
}

alq::Tables tables_of(const float* levels, const float* inverse_gaps, int count, int bits) {
  const alq::Table table = alq::make_table(levels, inverse_gaps, count, bits);
  alq::Tables tables;
  std::memcpy(tables.levels, table.levels, sizeof table.levels);
  std::memcpy(tables.scaled_inverse_gaps, table.scaled_inverse_gaps, sizeof table.levels);
  std::memcpy(tables.tree, table.tree, sizeof table.levels);
  for (int i = 0; i < 256; ++i) tables.decoded[i] = table.levels[i < count ? i : count - 1];
  tables.smallest_level = table.smallest_level;
  return tables;
}

template <typename T>
alq::Tensors<T> tensors_of(const void* const* data, const uint32_t* ends, const float* residual, uint32_t elements) {
  uint32_t count = 0;
  while (elements && ends[count++] < elements) continue;
  return {reinterpret_cast<const T* const*>(data), ends, residual, count, 0};
}

unsigned blocks(uint64_t elements, uint64_t each) { return static_cast<unsigned>((elements + each - 1) / each); }

}  // namespace

extern "C" {

void emulated_tables(const float* levels, const float* inverse_gaps, int count, int bits, alq::Tables* tables) {
  *tables = tables_of(levels, inverse_gaps, count, bits);
}

// chunk_size 0: buckets of any size, in two passes.
void emulated_encode(int type, int bits, const alq::Group* group, const void* const* data, const uint32_t* ends,
                     float* residual, const alq::Tables* tables, const uint32_t* key, uint32_t first_element,
                     int chunk_size, const alq::RecordPlan* plan, uint32_t* record) {
  const uint32_t n = group->elements, buckets = blocks(n, group->bucket_size);
  const alq::StreamKey stream = {key[0], key[1]};
  emulated::launch(1, alq::kThreads, [&] { alq::begin_record(*plan, buckets, record); });
  with_type(type, [&](auto example) {
    using T = decltype(example);
    const auto tensors = tensors_of<T>(data, ends, residual, n);
    std::vector<float> norms(buckets), limits(buckets);
    with_bits(bits, [&](auto b) {
      constexpr int B = decltype(b)::value;
      if (chunk_size) {
        emulated::launch(blocks(n, chunk_size), alq::kThreads, [&] {
          alq::encode<T, B>(*group, tensors, tables, stream, first_element, chunk_size, plan->codes_offset, record, residual);
        });
      } else {
        emulated::launch(buckets, alq::kThreads,
                         [&] { alq::bucket_norms<T>(*group, tensors, norms.data(), limits.data()); });
        emulated::launch(blocks(n, alq::kWarps * alq::kTile), alq::kThreads, [&] {
          alq::encode_with_norms<T, B>(*group, tensors, tables, stream, first_element, norms.data(), limits.data(),
                                       plan->codes_offset, record, residual);
        });
      }
    });
  });
}

uint32_t emulated_decode_sum(int type, int bits, const alq::Records* records, const alq::Group* group,
                             const alq::Tables* tables, float scale, void* const* data, const uint32_t* ends) {
  std::vector<uint32_t> checks(records->count * alq::kSlots);
  uint32_t status = 0;
  with_type(type, [&](auto example) {
    using T = decltype(example);
    with_bits(bits, [&](auto b) {
      emulated::launch(blocks(group->elements, alq::kWarps * alq::kTile), alq::kThreads, [&] {
        alq::decode_sum<T, decltype(b)::value>(*records, *group, tables, scale, reinterpret_cast<T* const*>(data), ends,
                                               tensors_of<T>(data, ends, nullptr, group->elements).count, checks.data());
      });
    });
  });
  emulated::launch(1, alq::kThreads, [&] { alq::finish_decode(*records, checks.data(), &status); });
  return status;
}

void emulated_recode(const alq::Records* records, const alq::Group* group, const alq::Tables* tables, float scale,
                     const alq::Group* again, const alq::Tables* tables_again, const uint32_t* key, int chunk_size,
                     const alq::RecordPlan* plan, uint32_t* record) {
  std::vector<uint32_t> checks(records->count * alq::kSlots);
  emulated::launch(1, alq::kThreads,
                   [&] { alq::begin_record(*plan, blocks(again->elements, again->bucket_size), record); });
  emulated::launch(blocks(group->elements, chunk_size), alq::kThreads, [&] {
    alq::recode<3, 8>(*records, *group, tables, scale, checks.data(), *again, tables_again, {key[0], key[1]}, 0, chunk_size,
                      plan->codes_offset, record);
  });
}

void emulated_statistics(const alq::Group* group, const void* const* data, const uint32_t* ends, const alq::Bins* bins,
                         double* mass, double* first_moment, double* moments) {
  const uint32_t buckets = blocks(group->elements, group->bucket_size);
  std::vector<float> norms(buckets), limits(buckets);
  const auto tensors = tensors_of<float>(data, ends, nullptr, group->elements);
  emulated::launch(buckets, alq::kThreads, [&] { alq::bucket_norms<float>(*group, tensors, norms.data(), limits.data()); });
  emulated::launch(buckets < 3 ? buckets : 3, alq::kThreads, [&] {
    alq::statistics<float>(*group, tensors, norms.data(), limits.data(), *bins, mass, first_moment, moments);
  });
}

}  // extern "C"
