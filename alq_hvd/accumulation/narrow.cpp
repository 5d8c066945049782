// The Python module alq_hvd.accumulation._native: matrix products whose sums are kept in a narrow float register.
//
// Products and sums are float32, and each sum is rounded to fewer mantissa bits before the next term comes: the same
// operations in the same order as emulated.py, so the same bits. Compile without contraction of multiply and add.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ALQ_FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define ALQ_FOR_EVERY_PROCESSOR
#endif
#define ALQ_INLINE inline __attribute__((always_inline))

namespace py = pybind11;

namespace alq {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

constexpr int kRows = 4;
constexpr int kColumns = 16;

// How to round a float32: with nothing to add, it is truncated; with nothing to drop, it stays.
struct Rounding {
  uint32_t add;
  uint32_t tie;
  uint32_t keep;
  int dropped;
};

Rounding rounding(int mantissa, bool truncate) {
  if (mantissa < 1 || mantissa > 23) throw std::invalid_argument("mantissa must be 1 to 23");
  const int dropped = 23 - mantissa;
  const bool nearest = !truncate && dropped > 0;
  return {nearest ? (1u << (dropped - 1)) - 1 : 0u, nearest ? 1u : 0u, ~((1u << dropped) - 1), dropped};
}

ALQ_INLINE float rounded(float value, Rounding how) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  const uint32_t kept = (word + how.add + ((word >> how.dropped) & how.tie)) & how.keep;
  float result;
  std::memcpy(&result, &kept, 4);
  return value == value ? result : value;  // a carry, or the mask, could turn NaN into a number
}

struct Adder {
  Rounding sum;
  Rounding term;
  bool rounds_terms;
  int64_t chunk;
};

// Multiply kRows rows, each of `depth` elements, by a panel of `depth` rows of kColumns columns.
template <bool rounds_terms>
ALQ_INLINE void multiply_block(const float* const* rows, const float* panel, int64_t depth, const Adder& adder,
                               float (&out)[kRows][kColumns]) {
  float inner[kRows][kColumns] = {};
  std::memset(out, 0, sizeof(out));
  const Rounding sum = adder.sum, term = adder.term;
  for (int64_t start = 0; start < depth; start += adder.chunk) {
    const int64_t stop = start + adder.chunk < depth ? start + adder.chunk : depth;
    for (int64_t k = start; k < stop; ++k)
      for (int row = 0; row < kRows; ++row) {
        const float factor = rows[row][k];
        for (int column = 0; column < kColumns; ++column) {
          float product = factor * panel[k * kColumns + column];
          if (rounds_terms) product = rounded(product, term);
          inner[row][column] = rounded(inner[row][column] + product, sum);
        }
      }
    for (int row = 0; row < kRows; ++row)
      for (int column = 0; column < kColumns; ++column) {
        out[row][column] = rounded(out[row][column] + inner[row][column], sum);
        inner[row][column] = 0;
      }
  }
}

ALQ_FOR_EVERY_PROCESSOR
void multiply_panel(const float* left, int64_t height, int64_t depth, const float* panel, const Adder& adder, float* out,
                    int64_t stride, int64_t width) {
  float block[kRows][kColumns];
  for (int64_t first = 0; first < height; first += kRows) {
    const float* rows[kRows];
    for (int row = 0; row < kRows; ++row) rows[row] = left + (first + row < height ? first + row : height - 1) * depth;
    if (adder.rounds_terms)
      multiply_block<true>(rows, panel, depth, adder, block);
    else
      multiply_block<false>(rows, panel, depth, adder, block);
    for (int row = 0; row < kRows && first + row < height; ++row)
      std::memcpy(out + (first + row) * stride, block[row], width * sizeof(float));
  }
}

FloatArray matmul(const FloatArray& left, const FloatArray& right, int mantissa, bool truncate, int64_t chunk, int term) {
  if (left.ndim() != 2 || right.ndim() != 2 || left.shape(1) != right.shape(0))
    throw std::invalid_argument("expected float32[m, k] and float32[k, n]");
  if (chunk < 1) throw std::invalid_argument("chunk must be positive");
  const bool rounds_terms = term > 0;
  const Adder adder = {rounding(mantissa, truncate), rounding(rounds_terms ? term : 23, false), rounds_terms, chunk};
  const int64_t height = left.shape(0), depth = left.shape(1), width = right.shape(1);
  FloatArray result({height, width});
  const float *a = left.data(), *b = right.data();
  float* out = result.mutable_data();
  py::gil_scoped_release unlocked;
  std::vector<float> panel(static_cast<size_t>(depth) * kColumns);
  for (int64_t first = 0; first < width && height > 0; first += kColumns) {
    const int64_t columns = width - first < kColumns ? width - first : kColumns;
    for (int64_t k = 0; k < depth; ++k)
      std::memcpy(&panel[k * kColumns], b + k * width + first, columns * sizeof(float));
    multiply_panel(a, height, depth, panel.data(), adder, out + first, width, columns);
  }
  return result;
}

}  // namespace
}  // namespace alq

PYBIND11_MODULE(_native, module) {
  module.doc() = "Matrix products whose sums are kept in a narrow float register.";
  module.def("matmul", &alq::matmul, py::arg("left").noconvert(), py::arg("right").noconvert(), py::arg("mantissa"),
             py::arg("truncate"), py::arg("chunk"), py::arg("term"),
             "Return left @ right, float32: each sum rounded to `mantissa` bits, each product first to `term` bits (0: not).");
}
