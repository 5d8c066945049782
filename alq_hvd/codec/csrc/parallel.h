// Threads over ranges that do not share a byte of output.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace alq {

// A thread costs some ten microseconds to start, in which one core encodes about this many elements.
constexpr int64_t kFewestElementsOfAThread = 1 << 16;

// Call work(begin, end, part) for at most `threads` ranges that cut 0..elements at multiples of `alignment`; `part` counts
// from 0. Rethrow the first exception after all have ended.
template <typename Work>
void parallel_ranges(int threads, int64_t elements, int64_t alignment, const Work& work) {
  const int64_t blocks = (elements + alignment - 1) / alignment;
  const int64_t useful = std::min<int64_t>(elements / kFewestElementsOfAThread, blocks);
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, useful));
  std::vector<std::exception_ptr> failures(parts);
  const auto run = [&](int64_t part) {
    const int64_t begin = blocks * part / parts * alignment, end = blocks * (part + 1) / parts * alignment;
    try {
      work(begin, std::min(end, elements), static_cast<int>(part));
    } catch (...) {
      failures[part] = std::current_exception();
    }
  };
  std::vector<std::thread> started;
  for (int64_t part = 1; part < parts; ++part) started.emplace_back(run, part);
  run(0);
  for (std::thread& thread : started) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace alq
