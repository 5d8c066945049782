// The tensors of a fusion group, one after another: where an element lies, and how tiles are read and written.
#pragma once

#include "device.cuh"

namespace alq {

// Return the tensor that holds `element`, which is none before `low`, nor any behind `high`: the first k with element < ends[k].
ALQ_DEVICE uint32_t locate(const uint32_t* ends, uint32_t low, uint32_t high, uint32_t element) {
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (element < ends[middle])
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The same for one element of which all threads of a warp ask, from `low` on: two readings for up to 1024 tensors, for a block
// waits for each.
ALQ_DEVICE uint32_t locate_together(const uint32_t* ends, uint32_t low, uint32_t count, uint32_t element) {
  const uint32_t lane = threadIdx.x % kLanes;
#pragma unroll 1
  for (uint32_t left = count - low; left > 1;) {
    const uint32_t step = (left + kLanes - 1) / kLanes, offset = (lane + 1) * step - 1;
    const uint32_t passed = step * sum_of_warp(offset < left - 1 && ends[low + offset] <= element);
    low += passed;
    left = left - passed < step ? left - passed : step;
  }
  return low;
}

// Finds elements of a group of tensors, which follow one another: element e lies in the first tensor k with e < ends[k].
// Keeps the tensor found last in registers.
template <typename T>
struct Cursor {
  T* const* data;
  const uint32_t* ends;
  uint32_t count;
  T* start = nullptr;
  uint32_t tensor = 0, begin = 0, length = 0;

  ALQ_DEVICE void take(uint32_t k) {
    tensor = k;
    begin = k ? ends[k - 1] : 0;
    length = ends[k] - begin;
    start = data[k];
  }

  ALQ_DEVICE T* at(uint32_t element) {
    if (element - begin >= length) {
      uint32_t k = 0;
      if (count > 1) k = locate(ends, 0, count - 1, element);  // [several]
      take(k);
    }
    return start + (element - begin);
  }

  // The same for an element that no tensor behind `last` holds, nor any before this one.
  ALQ_DEVICE T* up_to(uint32_t last, uint32_t element) {  // [rare]
    if (element - begin >= length) take(locate(ends, tensor, last, element));
    return start + (element - begin);
  }

  // The same for an element of this tensor or one soon after it.
  ALQ_DEVICE T* on_to(uint32_t element) {  // [rare]
    while (element - begin >= length) take(tensor + 1);
    return start + (element - begin);
  }

  // Return where the `size` elements from `element` on lie, or null where no one tensor holds them all. All threads of the warp ask
  // for the same ones.
  ALQ_DEVICE T* chunk_at(uint32_t element, uint32_t size) {
    if (element - begin >= length) {
      uint32_t k = 0;
      if (count > 1) k = locate_together(ends, 0, count, element);  // [several]
      take(k);
    }
    T* const found = start + (element - begin);
    return length - (element - begin) >= size ? found : nullptr;
  }
};

// The tensors of a gradient. `residual`, float32[elements] or null, is added to it (error feedback).
template <typename T>
struct Tensors {
  const T* const* data;
  const uint32_t* ends;
  const float* residual;
  uint32_t count, reserved;

  ALQ_DEVICE Cursor<const T> cursor() const { return {data, ends, count}; }

  ALQ_DEVICE float load(uint32_t element, Cursor<const T>& cursor) const {  // [rare]
    const float value = to_float(*cursor.at(element));
    return residual ? value + residual[element] : value;
  }
};

// Add 32 numbers, `stride` apart.
template <int stride>
ALQ_DEVICE void add_held(const float* from, float* to) {
#pragma unroll
  for (int n = 0; n < kRows; ++n) to[n] += from[n * stride];
}

// Load this thread's lane of the tile at `begin`, all loads on their way before the first is used, if there are kTile elements
// and one tensor holds them all; return whether it does.
template <typename T>
ALQ_DEVICE bool load_whole(const Tensors<T>& tensors, Cursor<const T>& cursor, uint32_t begin, int rest, float* rows) {
  const T* whole = rest < kTile ? nullptr : cursor.chunk_at(begin, kTile);
  if (!whole) return false;
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int row = 0; row < kRows; ++row) rows[row] = to_float(whole[row * kLanes + lane]);
  if (tensors.residual) add_held<kLanes>(tensors.residual + begin + lane, rows);
  return true;
}

// Write `scale` times this thread's lane of a tile that crosses from one tensor to another, or ends early.
template <typename T>
ALQ_DEVICE void store_part(Cursor<T>& cursor, uint32_t begin, int rest, float scale, const float* rows) {  // [rare]
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int row = 0; row < kRows; ++row)
    if (row * kLanes + lane < rest) from_float(scale * rows[row], *cursor.on_to(begin + row * kLanes + lane));
}

// Write `scale` times this thread's lane of a tile to the tensors of a sum.
template <typename T>
ALQ_DEVICE void store_tile(Cursor<T>& cursor, uint32_t begin, int rest, float scale, const float* rows) {
  const int lane = threadIdx.x % kLanes;
  T* const whole = cursor.chunk_at(begin, kTile);  // and the cursor is at its beginning
  if (whole && rest == kTile) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) from_float(scale * rows[row], whole[row * kLanes + lane]);
  } else {
    store_part(cursor, begin, rest, scale, rows);  // [rare]
  }
}

}  // namespace alq
