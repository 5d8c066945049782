// Run every kernel on heap buffers of exactly the promised size, under AddressSanitizer and UndefinedBehaviourSanitizer:
// random lengths, buckets, tables and gradients (NaN, infinities and subnormals among them), and records of random
// bytes. Prints the number of cases and a checksum of all results, which is the same on every processor.
// Usage: fuzz_kernels CASES SEED [baseline]; the last word leaves out the kernels of special instruction sets.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "ranges.h"
#include "table.h"

namespace {

std::mt19937_64 generator;
uint64_t checksum = 14695981039346656037u;  // FNV-1a

template <typename T>
void add_to_checksum(const T* values, int64_t count) {
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); ++i) checksum = (checksum ^ bytes[i]) * 1099511628211u;
}

int64_t below(int64_t limit) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(limit)); }

float any_float() {
  const uint32_t bits = static_cast<uint32_t>(generator());
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

alq::Table random_table(int bits, float draws) {
  std::vector<float> levels = {-1.0f, 1.0f}, inverse_gaps;
  const int64_t count = 2 + below((1 << bits) - 1);
  while (static_cast<int64_t>(levels.size()) < count) {
    const float level = static_cast<float>(below(2000000) - 1000000) / 1000000.0f;
    if (std::find(levels.begin(), levels.end(), level) == levels.end()) levels.push_back(level);
  }
  std::sort(levels.begin(), levels.end());
  for (size_t i = 0; i + 1 < levels.size(); ++i) inverse_gaps.push_back(1.0f / (levels[i + 1] - levels[i]));
  inverse_gaps.push_back(0.0f);
  return alq::make_table(levels.data(), inverse_gaps.data(), static_cast<int>(levels.size()), bits, draws);
}

// Independent ranks, those of a prime number of strata, or of a power of two.
alq::Strata random_strata() {
  constexpr uint32_t counts[][2] = {{1, 2}, {2, 3}, {4, 7}, {16, 19}, {32, 37}, {3, 0}, {11, 0}, {65521, 0}};
  const auto& [count, polynomial] = counts[below(8)];
  return {{5, 6}, count, static_cast<uint32_t>(below(count)), polynomial};
}

void fail(const char* what) {
  std::printf("FAILED: %s\n", what);
  std::exit(1);
}

void one_case(const alq::Kernels& kernels) {
  const int bits = 1 + static_cast<int>(below(8));
  const int64_t elements = below(2) ? below(200) : below(6000);
  const int64_t bucket_size = below(2) ? 32 * (1 + below(100)) : 1 + below(3000);
  const int rounds = static_cast<int>(below(3));
  const double reach = rounds == 2 ? 2.0 : 0.0;
  const bool clipped = below(3) == 0, maximum_norm = below(2) == 0;
  const alq::Strata strata = random_strata();
  const alq::Quantiser quantiser = {bits, bucket_size, maximum_norm, clipped ? 2.5 : 0.0, rounds, reach, {3, 4}, strata};
  alq::Table table = random_table(bits, reach > 0 ? alq::kDraws : alq::draws_of(strata));
  if (reach <= 0 && below(3) == 0) table.dither = 0.25f / alq::kDraws;
  const std::unique_ptr<uint32_t[]> filled(new uint32_t[alq::kStrataPeriod]);
  kernels.fill_strata(strata, filled.get());
  const int64_t buckets = (elements + bucket_size - 1) / bucket_size;
  const int64_t tail_rows = (elements % alq::kTile + alq::kLanes - 1) / alq::kLanes;
  const int64_t words = (elements / alq::kTile * bits + (tail_rows * bits + 31) / 32) * alq::kLanes;
  const std::unique_ptr<float[]> values(new float[elements]), norms(new float[buckets]), out(new float[elements]);
  const std::unique_ptr<float[]> scratch(new float[alq::scratch_elements(quantiser)]);
  const std::unique_ptr<uint32_t[]> packed(new uint32_t[words]());
  const bool wild = below(4) == 0;
  for (int64_t i = 0; i < elements; ++i)
    values[i] = wild ? any_float() : static_cast<float>(below(2001) - 1000) * 1e-5f;
  kernels.encode(values.get(), elements, quantiser, table, {1, 2}, static_cast<uint32_t>(generator()), filled.get(),
                 scratch.get(), norms.get(), packed.get());
  add_to_checksum(norms.get(), buckets);
  add_to_checksum(packed.get(), words);

  const int64_t signs = (rounds ? alq::kRotationBytes : 0) + alq::kDrawsBytes, record_bytes = signs + 4 * (buckets + words);
  std::vector<std::unique_ptr<uint8_t[]>> records;
  std::vector<const uint8_t*> starts;
  const int64_t count = below(4);
  for (int64_t r = 0; r < count; ++r) {
    records.emplace_back(new uint8_t[record_bytes]);
    starts.push_back(records.back().get());
    uint8_t* bytes = records.back().get();
    if (r == 0) {
      std::memset(bytes, 0, signs);
      std::memcpy(bytes + signs, norms.get(), 4 * buckets);
      std::memcpy(bytes + signs + 4 * buckets, packed.get(), 4 * words);
    } else {
      for (int64_t i = 0; i < record_bytes; ++i) bytes[i] = static_cast<uint8_t>(generator());
      for (int64_t i = 0; i < buckets; ++i) {  // any finite norm
        const float norm = 1.0f + static_cast<float>(below(1000));
        std::memcpy(bytes + signs + 4 * i, &norm, 4);
      }
    }
  }
  const alq::RecordOffsets offsets = {signs, signs + 4 * buckets, 0, signs - alq::kDrawsBytes};
  if (rounds) {
    const int64_t strip = std::lcm(bucket_size, int64_t{alq::kTile});
    const std::unique_ptr<float[]> part(new float[std::min(strip, elements)]);
    kernels.decode_rotated(starts.data(), static_cast<int>(count), 0, elements, quantiser, table, offsets, 0.5f, strip,
                           part.get(), out.get());
  } else {
    kernels.decode_sum(starts.data(), static_cast<int>(count), 0, elements, quantiser, table, offsets, 0.5f, out.get());
  }
  for (int64_t i = 0; i < elements; ++i)
    if (!wild && !std::isfinite(out[i])) fail("a finite gradient and finite norms decoded to NaN or infinity");
  if (!wild) add_to_checksum(out.get(), elements);  // which NaN a sum gives, processors do not agree on

  // Error feedback in parts that end anywhere: what is kept is finite, whatever the gradient was.
  const std::unique_ptr<uint8_t[]> record(new uint8_t[record_bytes]());
  const std::unique_ptr<float[]> residual(new float[elements]);
  for (int64_t i = 0; i < elements; ++i) residual[i] = static_cast<float>(below(2001) - 1000) * 1e-5f;
  alq::encode_range_with_feedback({kernels, quantiser, table, offsets, filled.get()}, values.get(), 0, elements, {1, 2}, 0,
                                  scratch.get(), record.get(), residual.get(), 1 + below(4000));
  for (int64_t i = 0; i < elements; ++i)
    if (!std::isfinite(residual[i])) fail("what is kept for the next record is not finite");
  add_to_checksum(residual.get(), elements);
  add_to_checksum(record.get(), record_bytes);

  constexpr int octaves = 16, log2 = 5, bins = 2 * ((octaves << log2) + 1);
  const std::unique_ptr<double[]> mass(new double[bins]()), first(new double[bins]());
  const std::unique_ptr<alq::BucketMoments[]> moments(new alq::BucketMoments[buckets]);
  kernels.statistics(values.get(), elements, quantiser, {octaves, log2, 2, mass.get(), first.get()}, scratch.get(),
                     moments.get());
  if (!wild) add_to_checksum(mass.get(), bins);
  if (!wild) add_to_checksum(moments.get(), buckets);
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 1000;
  generator.seed(argc > 2 ? std::atoi(argv[2]) : 1);
  std::vector<const alq::Kernels*> supported = {&alq::baseline_kernels()};
#if defined(__x86_64__)
  const bool all = argc <= 3;
  if (all && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) supported.push_back(&alq::avx2_kernels());
  if (all && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    supported.push_back(&alq::avx512_kernels());
#endif
  for (int i = 0; i < cases; ++i) one_case(*supported[i % supported.size()]);
  std::printf("%d cases, checksum %016llx\n", cases, static_cast<unsigned long long>(checksum));
}
