// The CPU kernels for any processor.
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels.h"

#define ALQ_WIDTH 4

namespace alq {
namespace {
#include "kernels_impl.h"
}  // namespace

const Kernels& baseline_kernels() {
  static const Kernels kernels = {"baseline",          encode_any,      fill_strata,     decode_any,
                                  decode_rotated,  bucket_energies, decode_by_width, gather_statistics};
  return kernels;
}

}  // namespace alq
