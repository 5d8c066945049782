// The CPU kernels for x86-64 with avx2 and fma.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>

#include "kernels.h"

#define ALQ_WIDTH 8

namespace alq {
namespace {
#include "kernels_impl.h"
}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels kernels = {"avx2",          encode_any,      fill_strata,     decode_any,
                                  decode_rotated,  bucket_energies, decode_by_width, gather_statistics};
  return kernels;
}

}  // namespace alq
#endif
