// Every CUDA kernel behind one C function that takes what cuLaunchKernel would be given: a name, a number of blocks, and
// the address and size of each argument's bytes. tests/support/emulated_device.py calls it in place of cupy.
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "codec.cu"
#include "table.h"

namespace {

struct Call {
  unsigned blocks;
  int count;
  void* const* arguments;
  const size_t* sizes;
};

constexpr size_t kGuardBytes = 4096;
constexpr unsigned char kGuard = 0xa5;

std::string problem;  // of the last launch; empty: none

using Run = std::function<void(const Call&)>;
std::map<std::string, Run> kernels;

template <typename Tuple, size_t... I>
bool sizes_fit(const Call& call, std::index_sequence<I...>) {
  return call.count == static_cast<int>(sizeof...(I)) && ((call.sizes[I] == sizeof(std::tuple_element_t<I, Tuple>)) && ...);
}

template <typename Tuple, size_t... I>
std::string expected_sizes(std::index_sequence<I...>) {
  std::string text;
  ((text += " " + std::to_string(sizeof(std::tuple_element_t<I, Tuple>))), ...);
  return text;
}

// Give every instance of `call` a kernel's parameters, each copied from the bytes of its argument.
template <typename... P, size_t... I>
void start(void (*kernel)(P...), const Call& call, std::index_sequence<I...>) {
  std::tuple<P...> parameters;
  (std::memcpy(&std::get<I>(parameters), call.arguments[I], sizeof(P)), ...);
  emulated::launch(call.blocks, alq::kThreads, [&] { kernel(std::get<I>(parameters)...); });
}

template <typename... P>
void add(const std::string& name, void (*kernel)(P...)) {
  kernels["alq::" + name] = [=](const Call& call) {
    constexpr auto indices = std::index_sequence_for<P...>();
    if (sizes_fit<std::tuple<P...>>(call, indices)) {
      start(kernel, call, indices);
      return;
    }
    problem = "alq::" + name + ": expected arguments of these bytes:" + expected_sizes<std::tuple<P...>>(indices) + ", got:";
    for (int i = 0; i < call.count; ++i) problem += " " + std::to_string(call.sizes[i]);
  };
}

template <typename T, int B>
void add_width(const std::string& type) {
  const std::string parameters = "<" + type + ", " + std::to_string(B);
  add("encode" + parameters + ">", alq::encode<T, B>);
  add("encode_with_norms" + parameters + ">", alq::encode_with_norms<T, B>);
  add("decode_sum" + parameters + ", false>", alq::decode_sum<T, B, false>);
  add("decode_sum" + parameters + ", true>", alq::decode_sum<T, B, true>);
  add("decode_rotated" + parameters + ", false>", alq::decode_rotated<T, B, false>);
  add("decode_rotated" + parameters + ", true>", alq::decode_rotated<T, B, true>);
  add("encode_rotated" + parameters + ", false>", alq::encode_rotated<T, B, false>);
  add("encode_rotated" + parameters + ", true>", alq::encode_rotated<T, B, true>);
}

template <typename T, bool fits>
void add_workplace(const std::string& parameters) {
  add("rotate_group<" + parameters, alq::rotate_group<T, fits>);
  add("keep_lost<" + parameters, alq::keep_lost<T, fits>);
  add("add_run<" + parameters, alq::add_run<T, fits>);
}

template <typename T, int... B>
void add_type(const std::string& type, std::integer_sequence<int, B...>) {
  (add_width<T, B + 1>(type), ...);
  add("bucket_norms<" + type + ">", alq::bucket_norms<T>);
  add("statistics<" + type + ">", alq::statistics<T>);
  add("block_energies<" + type + ">", alq::block_energies<T>);
  add("encode_by_width<" + type + ">", alq::encode_by_width<T>);
  add("encode_rotated_by_width<" + type + ", false>", alq::encode_rotated_by_width<T, false>);
  add("encode_rotated_by_width<" + type + ", true>", alq::encode_rotated_by_width<T, true>);
  add("decode_by_width<" + type + ", false>", alq::decode_by_width<T, false>);
  add("decode_by_width<" + type + ", true>", alq::decode_by_width<T, true>);
  add("decode_rotated_by_width<" + type + ", false>", alq::decode_rotated_by_width<T, false>);
  add("decode_rotated_by_width<" + type + ", true>", alq::decode_rotated_by_width<T, true>);
  add_workplace<T, false>(type + ", false>");
  add_workplace<T, true>(type + ", true>");
}

template <int B>
void add_any_size() {
  add("sum_run<" + std::to_string(B) + ", false>", alq::sum_run<B, false>);
  add("sum_run<" + std::to_string(B) + ", true>", alq::sum_run<B, true>);
  add("projection_scales<" + std::to_string(B) + ">", alq::projection_scales<B>);
}

// Two-shot keeps the width or goes on with 8 bits: all 64 pairs would take the compiler too long.
template <int B>
void add_recode() {
  add("recode<" + std::to_string(B) + ", 8>", alq::recode<B, 8>);
  if constexpr (B != 8) add("recode<" + std::to_string(B) + ", " + std::to_string(B) + ">", alq::recode<B, B>);
}

template <int... B>
void add_all(std::integer_sequence<int, B...> widths) {
  add_type<float>("float", widths);
  add_type<alq::Half>("alq::Half", widths);
  add_type<alq::Brain>("alq::Brain", widths);
  (add_recode<B + 1>(), ...);
  (add_any_size<B + 1>(), ...);
  add("begin_record", alq::begin_record);
  add("finish_decode", alq::finish_decode);
  add("place_records", alq::place_records);
  add("share_out", alq::share_out);
}

}  // namespace

extern "C" {

// Run a kernel to its end. Return null, or what is wrong with the call.
const char* emulated_launch(const char* name, unsigned blocks, int count, void* const* arguments, const size_t* sizes,
                            size_t shared_bytes) {
  if (kernels.empty()) add_all(std::make_integer_sequence<int, 8>());
  problem.clear();
  const auto found = kernels.find(name);
  if (found == kernels.end())
    problem = std::string("no kernel is called ") + name;
  else if (shared_bytes + kGuardBytes > sizeof emulated::dynamic_shared)
    problem = "more dynamic shared memory than a block can have";
  else {
    unsigned char* guard = emulated::dynamic_shared + shared_bytes;
    std::memset(guard, kGuard, kGuardBytes);
    found->second({blocks, count, arguments, sizes});
    for (size_t i = 0; i < kGuardBytes; ++i)
      if (guard[i] != kGuard) problem = std::string(name) + " wrote past its dynamic shared memory";
  }
  return problem.empty() ? nullptr : problem.c_str();
}

// Write the tables that the C++ codec searches, laid out as the kernels' `Tables`.
void emulated_tables(const float* levels, const float* inverse_gaps, int count, int bits, float draws, alq::Tables* tables) {
  const alq::Table table = alq::make_table(levels, inverse_gaps, count, bits, draws);
  std::memcpy(tables->levels, table.levels, sizeof table.levels);
  std::memcpy(tables->scaled_inverse_gaps, table.scaled_inverse_gaps, sizeof table.levels);
  std::memcpy(tables->tree, table.tree, sizeof table.levels);
  for (int i = 0; i < 256; ++i) tables->decoded[i] = table.levels[i < count ? i : count - 1];
  tables->smallest_level = table.smallest_level;
}

}  // extern "C"
