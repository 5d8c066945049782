// The Python module alq_hvd.codec._native: checks its arguments, releases the GIL, and calls the kernels that suit the
// processor it runs on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "by_width.h"
#include "kernels.h"
#include "parallel.h"
#include "ranges.h"
#include "table.h"

namespace py = pybind11;

namespace alq {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;
using DoubleArray = py::array_t<double, py::array::c_style>;

constexpr int64_t kMaximumBucketSize = int64_t{1} << 24;

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> all = {&baseline_kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&avx2_kernels());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    all.push_back(&avx512_kernels());
#endif
  return all;
}

const Kernels& kernels_named(const std::string& name) {
  for (const Kernels* kernels : supported_kernels())
    if (name == kernels->name) return *kernels;
  throw std::invalid_argument("this processor has no instruction set " + name);
}

Quantiser checked_quantiser(int bits, int64_t bucket_size, bool maximum_norm, double clip, int rounds, double reach,
                            StreamKey signs, Strata strata = {}) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("bits must be 1 to 8");
  if (bucket_size < 1 || bucket_size > kMaximumBucketSize) throw std::invalid_argument("bucket_size must be 1 to 2**24");
  if (rounds < 0 || rounds > 2 || (reach > 0 && !rounds))
    throw std::invalid_argument("rounds must be 0, 1 or 2, and not 0 where reach is positive");
  if (strata.count < 1 || strata.count > kMostStrata || strata.place >= strata.count)
    throw std::invalid_argument("strata must be 1 to 2**16, and place one of them");
  return {bits, bucket_size, maximum_norm, clip, rounds, reach, signs, strata};
}

// Return where the parts of a record lie.
RecordOffsets offsets_of(const Quantiser& quantiser, bool dithered, int64_t norms_offset, int64_t codes_offset) {
  const int64_t draws = norms_offset - (dithered ? kDrawsBytes : 0);
  return {norms_offset, codes_offset, draws - (quantiser.rounds ? kRotationBytes : 0), draws};
}

Table checked_table(const FloatArray& levels, const FloatArray& inverse_gaps, int bits, float dither,
                    float draws = kDraws) {
  if (levels.ndim() != 1 || levels.size() < 2 || levels.size() > (1 << bits) || inverse_gaps.size() != levels.size())
    throw std::invalid_argument("levels and inverse_gaps must be float32[2 to 2**bits] of one length");
  if (!(dither >= 0 && dither <= 2)) throw std::invalid_argument("dither must be 0 to 2");
  Table table = make_table(levels.data(), inverse_gaps.data(), static_cast<int>(levels.size()), bits, draws);
  table.dither = dither * (1.0f / kDraws);
  return table;
}

int64_t word_rows(int64_t elements, int bits) {
  const int64_t tail_rows = (elements % kTile + kLanes - 1) / kLanes;
  return elements / kTile * bits + (tail_rows * bits + 31) / 32;
}

// Raise unless norms and codes of `elements` lie inside a record of `record_bytes` bytes.
void check_record(int64_t record_bytes, int64_t elements, const Quantiser& quantiser, bool dithered, int64_t norms_offset,
                  int64_t codes_offset) {
  if (norms_offset < (quantiser.rounds ? kRotationBytes : 0) + (dithered ? kDrawsBytes : 0))
    throw std::invalid_argument("a rotated record names its signs, a dithered one its draws, in 16 bytes before its norms");
  const int64_t buckets = (elements + quantiser.bucket_size - 1) / quantiser.bucket_size;
  const int64_t codes_bytes = 4 * kLanes * word_rows(elements, quantiser.bits);
  if (norms_offset < 0 || norms_offset % 4 || codes_offset % 4 || codes_offset < norms_offset ||
      codes_offset - norms_offset < 4 * buckets)  // no sum here: offsets may be as large as int64_t holds
    throw std::invalid_argument("norms and codes must be aligned to 4 bytes and must not overlap");
  if (record_bytes < codes_offset || record_bytes - codes_offset < codes_bytes)
    throw std::invalid_argument("the record is too short: " + std::to_string(record_bytes) + " bytes, needs " +
                                std::to_string(codes_bytes) + " behind offset " + std::to_string(codes_offset));
}

// Return the checksum of the record. A residual, as long as `values`, is added to them first and takes what the record has
// lost.
uint32_t encode(const std::string& isa, const FloatArray& values, ByteArray record, int64_t norms_offset,
            int64_t codes_offset, int bits, int64_t bucket_size, bool maximum_norm, double clip,
            const FloatArray& levels, const FloatArray& inverse_gaps, uint32_t key_first, uint32_t key_second,
            uint32_t first_element, int threads, int rounds, double reach, uint32_t signs_first, uint32_t signs_second,
            const std::array<uint32_t, 5>& strata, float dither, std::optional<FloatArray> residual) {
  const auto& [shared_first, shared_second, count, place, polynomial] = strata;
  const Quantiser quantiser =
      checked_quantiser(bits, bucket_size, maximum_norm, clip, rounds, reach, {signs_first, signs_second},
                        {{shared_first, shared_second}, count, place, polynomial});
  const Table table = checked_table(levels, inverse_gaps, bits, dither, reach > 0 ? kDraws : draws_of(quantiser.strata));
  const Kernels& kernels = kernels_named(isa);
  const int64_t elements = values.size();
  check_record(record.size(), elements, quantiser, dither > 0, norms_offset, codes_offset);
  if (residual && residual->size() != elements) throw std::invalid_argument("residual must be as long as values");
  const float* from = values.data();
  float* const kept = residual ? residual->mutable_data() : nullptr;
  uint8_t* const to = record.mutable_data();
  alignas(64) uint32_t filled[kStrataPeriod];
  kernels.fill_strata(quantiser.strata, filled);
  const RecordOffsets offsets = offsets_of(quantiser, dither > 0, norms_offset, codes_offset);
  const Coding coding = {kernels, quantiser, table, offsets, filled};
  const StreamKey key = {key_first, key_second};
  py::gil_scoped_release unlocked;
  std::atomic<uint32_t> check(0);
  parallel_ranges(threads, elements, strip_of(quantiser), [&](int64_t begin, int64_t end, int) {
    const auto scratch = scratch_for(quantiser);
    check += kept ? encode_range_with_feedback(coding, from, begin, end, key, first_element, scratch.get(), to, kept)
                  : encode_range(coding, from, begin, end, key, first_element, scratch.get(), to);
  });
  return check;
}

void decode_sum(const std::string& isa, const std::vector<ByteArray>& records, FloatArray out, int64_t norms_offset,
                int64_t codes_offset, int bits, int64_t bucket_size, const FloatArray& levels,
                const FloatArray& inverse_gaps, float scale, int threads, int rounds, float dither) {
  const Quantiser quantiser = checked_quantiser(bits, bucket_size, false, 0, rounds, 0, {0, 0});
  const Table table = checked_table(levels, inverse_gaps, bits, dither);
  const RecordOffsets offsets = offsets_of(quantiser, dither > 0, norms_offset, codes_offset);
  const Coding coding = {kernels_named(isa), quantiser, table, offsets};
  const int64_t elements = out.size();
  std::vector<const uint8_t*> starts;
  for (const ByteArray& record : records) {
    check_record(record.size(), elements, quantiser, dither > 0, norms_offset, codes_offset);
    starts.push_back(record.data());
  }
  float* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  parallel_ranges(threads, elements, rounds ? strip_of(quantiser) : kTile, [&](int64_t begin, int64_t end, int) {
    decode_range(coding, starts, begin, end, scale, to + begin);
  });
}

// A table of levels for each width, as Python hands it over: width, levels, inverse gaps, dither, reach.
using GivenTable = std::tuple<int, FloatArray, FloatArray, float, double>;

// Quantisers and tables by width. A width without a table has that of the smallest one that has: codes decode to something.
struct Widths {
  Quantiser quantisers[9];
  Table tables[9] = {};
  bool dithered = false;

  Widths(const std::vector<GivenTable>& given, const Quantiser& shared) {
    if (given.empty()) throw std::invalid_argument("expected a table of levels");
    bool known[9] = {};
    for (const auto& [width, levels, inverse_gaps, dither, reach] : given) {
      if (width < 1 || width > 8) throw std::invalid_argument("widths must be 1 to 8");
      if (reach > 0 && !shared.rounds) throw std::invalid_argument("rounds must not be 0 where reach is positive");
      const float draws = reach > 0 ? kDraws : draws_of(shared.strata);
      tables[width] = checked_table(levels, inverse_gaps, width, dither, draws);
      quantisers[width] = shared;
      quantisers[width].bits = width;
      quantisers[width].reach = reach;
      quantisers[width].knows_norms = shared.rounds == 0;  // from when bits were shared out
      dithered |= dither > 0;
      known[width] = true;
    }
    const int first = std::get<0>(given.front());
    for (int width = 0; width <= 8; ++width)
      if (!known[width]) tables[width] = tables[first], quantisers[width] = quantisers[first], quantisers[width].bits = width;
  }
};

// Raise unless norms, widths and codes lie inside a record of `record_bytes` bytes.
void check_record_by_width(int64_t record_bytes, int64_t elements, const Quantiser& quantiser, bool dithered,
                           int64_t norms_offset, int64_t widths_offset, int64_t codes_offset, int64_t rows) {
  const int64_t block = block_size_of(quantiser.bucket_size), blocks = (elements + block - 1) / block;
  if (block % quantiser.bucket_size || block % kTile)
    throw std::invalid_argument("bucket_size must divide 1024 or be a multiple of it");
  check_record(record_bytes, 0, quantiser, dithered, norms_offset, codes_offset);
  const int64_t buckets = (elements + quantiser.bucket_size - 1) / quantiser.bucket_size;
  if (widths_offset < norms_offset || widths_offset % 4 || widths_offset - norms_offset < 4 * buckets ||
      codes_offset - widths_offset < blocks)
    throw std::invalid_argument("norms, widths and codes must be aligned to 4 bytes and must not overlap");
  if (rows < 0 || rows > (record_bytes - codes_offset) / (4 * kLanes))
    throw std::invalid_argument("the record is too short: " + std::to_string(record_bytes) + " bytes for " +
                                std::to_string(rows) + " rows of codes");
}

// As `encode`, with widths that follow energy. `steps` and `base` are the ladder's.
uint32_t encode_widths(const std::string& isa, const FloatArray& values, ByteArray record, int64_t norms_offset,
                       int64_t widths_offset, int64_t codes_offset, int64_t rows, int64_t bucket_size, bool maximum_norm,
                       double clip, const std::vector<GivenTable>& tables, int base, const std::vector<int64_t>& steps,
                       bool keeps_all, uint32_t key_first, uint32_t key_second, uint32_t first_element, int threads,
                       int rounds, uint32_t signs_first, uint32_t signs_second, const std::array<uint32_t, 5>& strata,
                       std::optional<FloatArray> residual) {
  const auto& [shared_first, shared_second, count, place, polynomial] = strata;
  const Quantiser shared = checked_quantiser(1, bucket_size, maximum_norm, clip, rounds, 0, {signs_first, signs_second},
                                             {{shared_first, shared_second}, count, place, polynomial});
  const Widths widths(tables, shared);
  const int64_t elements = values.size();
  check_record_by_width(record.size(), elements, shared, widths.dithered, norms_offset, widths_offset, codes_offset, rows);
  if (base < 1 || steps.empty() || steps.size() > size_t(9 - base) || !std::is_sorted(steps.begin(), steps.end()) ||
      steps[0] != 0 || steps.back() > (1 << 20))
    throw std::invalid_argument("expected a step for each width from base to at most 8, 0 first, never decreasing");
  if (rows < WidthBlocks{elements, block_size_of(bucket_size)}.rows_of(0, base))
    throw std::invalid_argument("expected room for the codes of one block of base bits");
  if (residual && residual->size() != elements) throw std::invalid_argument("residual must be as long as values");
  Ladder ladder = {base, static_cast<int>(steps.size()), keeps_all, {}};
  std::copy(steps.begin(), steps.end(), ladder.steps);
  const Kernels& kernels = kernels_named(isa);
  alignas(64) uint32_t filled[kStrataPeriod];
  kernels.fill_strata(shared.strata, filled);
  const RecordOffsets offsets = offsets_of(shared, widths.dithered, norms_offset, codes_offset);
  const CodingByWidth coding = {kernels, widths.quantisers, widths.tables, offsets, widths_offset, rows, threads, filled};
  const float* from = values.data();
  float* const kept = residual ? residual->mutable_data() : nullptr;
  uint8_t* const to = record.mutable_data();
  py::gil_scoped_release unlocked;
  return encode_by_width(coding, from, elements, ladder, {key_first, key_second}, first_element, to, kept);
}

void decode_sum_widths(const std::string& isa, const std::vector<ByteArray>& records, FloatArray out, int64_t norms_offset,
                       int64_t widths_offset, int64_t codes_offset, int64_t rows, int64_t bucket_size,
                       const std::vector<GivenTable>& tables, float scale, int threads, int rounds) {
  const Quantiser shared = checked_quantiser(1, bucket_size, false, 0, rounds, 0, {0, 0});
  const Widths widths(tables, shared);
  const RecordOffsets offsets = offsets_of(shared, widths.dithered, norms_offset, codes_offset);
  const CodingByWidth coding = {kernels_named(isa), widths.quantisers, widths.tables, offsets, widths_offset, rows, threads};
  const int64_t elements = out.size();
  std::vector<const uint8_t*> starts;
  for (const ByteArray& record : records) {
    check_record_by_width(record.size(), elements, shared, widths.dithered, norms_offset, widths_offset, codes_offset, rows);
    starts.push_back(record.data());
  }
  float* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  decode_by_width(coding, starts, elements, scale, to);
}

// Return (mass, first_moment, moments[buckets, 4]).
py::tuple statistics(const std::string& isa, const FloatArray& values, int64_t bucket_size, bool maximum_norm,
                     double clip, int weight_exponent, int octaves, int bins_per_octave_log2, int rounds, double reach) {
  const Quantiser quantiser = checked_quantiser(1, bucket_size, maximum_norm, clip, rounds, reach, {0, 0});
  if (octaves < 1 || octaves > 126 || bins_per_octave_log2 < 0 || bins_per_octave_log2 > 10)
    throw std::invalid_argument("octaves must be 1 to 126 and bins_per_octave_log2 0 to 10");
  const Kernels& kernels = kernels_named(isa);
  const int64_t elements = values.size(), buckets = (elements + bucket_size - 1) / bucket_size;
  const int64_t bins = 2 * ((static_cast<int64_t>(octaves) << bins_per_octave_log2) + 1);
  DoubleArray mass(bins), first_moment(bins), moments({buckets, int64_t{4}});
  std::fill_n(mass.mutable_data(), bins, 0.0);
  std::fill_n(first_moment.mutable_data(), bins, 0.0);
  const Histogram histogram = {octaves, bins_per_octave_log2, weight_exponent, mass.mutable_data(),
                               first_moment.mutable_data()};
  auto* rows = reinterpret_cast<BucketMoments*>(moments.mutable_data());
  const float* from = values.data();
  {
    py::gil_scoped_release unlocked;
    const auto scratch = scratch_for(quantiser);
    kernels.statistics(from, elements, quantiser, histogram, scratch.get(), rows);
  }
  return py::make_tuple(mass, first_moment, moments);
}

}  // namespace
}  // namespace alq

PYBIND11_MODULE(_native, module) {
  module.doc() = "CPU kernels of alq_hvd: encode, decode and sum, statistics. Arrays must be contiguous, of exact dtype.";
  module.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const alq::Kernels* kernels : alq::supported_kernels()) names.push_back(kernels->name);
    return names;
  }, "Return the instruction sets this processor supports, slowest first.");
  module.def("encode", &alq::encode, py::arg("isa"), py::arg("values").noconvert(), py::arg("record").noconvert(),
             py::kw_only(), py::arg("norms_offset"), py::arg("codes_offset"), py::arg("bits"), py::arg("bucket_size"),
             py::arg("maximum_norm"), py::arg("clip"), py::arg("levels").noconvert(),
             py::arg("inverse_gaps").noconvert(), py::arg("key_first"), py::arg("key_second"),
             py::arg("first_element"), py::arg("threads") = 1, py::arg("rounds") = 0, py::arg("reach") = 0.0,
             py::arg("signs_first") = 0, py::arg("signs_second") = 0,
             py::arg("strata") = std::array<uint32_t, 5>{0, 0, 1, 0, 0}, py::arg("dither") = 0.0f, py::arg("residual").noconvert() = py::none(),
             "Write the norms and packed codes of values into record, whose other bytes are zero; return its checksum. "
             "A residual is added to the values first, and takes what the record has lost.");
  module.def("decode_sum", &alq::decode_sum, py::arg("isa"), py::arg("records").noconvert(),
             py::arg("out").noconvert(), py::kw_only(), py::arg("norms_offset"), py::arg("codes_offset"),
             py::arg("bits"), py::arg("bucket_size"), py::arg("levels").noconvert(),
             py::arg("inverse_gaps").noconvert(), py::arg("scale"),
             py::arg("threads") = 1, py::arg("rounds") = 0, py::arg("dither") = 0.0f, "Write scale * sum of the decoded records into out.");
  module.def("encode_widths", &alq::encode_widths, py::arg("isa"), py::arg("values").noconvert(),
             py::arg("record").noconvert(), py::kw_only(), py::arg("norms_offset"), py::arg("widths_offset"),
             py::arg("codes_offset"), py::arg("rows"), py::arg("bucket_size"), py::arg("maximum_norm"), py::arg("clip"),
             py::arg("tables"), py::arg("base"), py::arg("steps"), py::arg("keeps_all"), py::arg("key_first"),
             py::arg("key_second"), py::arg("first_element"), py::arg("threads") = 1, py::arg("rounds") = 0,
             py::arg("signs_first") = 0, py::arg("signs_second") = 0,
             py::arg("strata") = std::array<uint32_t, 5>{0, 0, 1, 0, 0}, py::arg("residual").noconvert() = py::none(),
             "Write norms, widths and packed codes of values into record; return the checksum of norms and codes.");
  module.def("decode_sum_widths", &alq::decode_sum_widths, py::arg("isa"), py::arg("records").noconvert(),
             py::arg("out").noconvert(), py::kw_only(), py::arg("norms_offset"), py::arg("widths_offset"),
             py::arg("codes_offset"), py::arg("rows"), py::arg("bucket_size"), py::arg("tables"), py::arg("scale"),
             py::arg("threads") = 1, py::arg("rounds") = 0, "Write scale * sum of the decoded records into out.");
  module.def("statistics", &alq::statistics, py::arg("isa"), py::arg("values").noconvert(), py::kw_only(),
             py::arg("bucket_size"), py::arg("maximum_norm"), py::arg("clip"), py::arg("weight_exponent"),
             py::arg("octaves"), py::arg("bins_per_octave_log2"),
             py::arg("rounds") = 0, py::arg("reach") = 0.0, "Return (mass, first_moment, moments) of the normalised values.");
}
