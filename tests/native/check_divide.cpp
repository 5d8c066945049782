// Prove alq::divide: for every significand of a divisor, try the dividends whose quotients come closest to the middle
// between two floats, where one wrong bit of the correction would round the other way. Usage: check_divide STRIDE
//
// With an odd divisor b of L bits, a quotient a / b is nearest to a midpoint m / 2^s when a * 2^s = m * b - t for a small
// t; modulo 2^s this gives m = t / b. STRIDE 1 takes all 8 million divisors, a larger one every STRIDE-th.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "quantise.h"

int main(int argc, char** argv) {
  const uint32_t stride = 2 * (argc > 1 ? std::atoi(argv[1]) : 1);
  const auto fused = [](float a, float b, float c) { return __builtin_fmaf(a, b, c); };
  uint64_t tried = 0, wrong = 0;
  for (uint32_t b = 1; b < 1u << 24; b += stride) {
    const int length = 32 - __builtin_clz(b);
    const float norm = static_cast<float>(b), reciprocal = 1.0f / norm;
    uint32_t inverse = b;
    for (int i = 0; i < 5; ++i) inverse *= 2 - b * inverse;
    for (int s = length; s <= length + 2; ++s)
      for (int t = -7; t <= 7; ++t) {
        const uint32_t m = (inverse * static_cast<uint32_t>(t)) & ((1u << s) - 1);
        for (const uint32_t middle : {m, m | (1u << 24), m + (1u << s)}) {
          if (middle < 1u << 23 || middle >= 1u << 26) continue;
          const int64_t a = (static_cast<int64_t>(middle) * b - t) >> s;
          for (int64_t dividend = a - 1; dividend <= a + 1; ++dividend) {
            if (dividend <= 0 || dividend >= 1 << 25) continue;
            const float value = static_cast<float>(dividend);
            ++tried;
            wrong += alq::divide(value, norm, reciprocal, fused) != value / norm;
          }
        }
      }
  }
  std::printf("%llu quotients, %llu wrong\n", static_cast<unsigned long long>(tried),
              static_cast<unsigned long long>(wrong));
  return wrong != 0 || tried == 0;
}
