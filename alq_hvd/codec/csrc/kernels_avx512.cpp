// The CPU kernels for x86-64 with avx512f, avx512bw, avx512dq, avx512vl.
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#if !defined(__clang__)
// GCC 12 takes the undefined operands of its own intrinsics for ours, thousands of times (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "kernels.h"

#define ALQ_WIDTH 16

namespace alq {
namespace {
#include "kernels_impl.h"
}  // namespace

const Kernels& avx512_kernels() {
  static const Kernels kernels = {"avx512",          encode_any,      fill_strata,     decode_any,
                                  decode_rotated,  bucket_energies, decode_by_width, gather_statistics};
  return kernels;
}

}  // namespace alq
#endif
