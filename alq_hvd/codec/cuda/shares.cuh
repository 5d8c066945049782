// Blocks that have a width each: the energies of a gradient, how bits follow them, and where the codes of a block lie.
#pragma once

#include "encode.cuh"
#include "ladder.h"

namespace alq {

constexpr int kPlaced = 4 * kLanes;  // blocks of which one place is kept: a warp reads their widths at once
constexpr int32_t kFirstKey = (1023 - 252) << kStepsLog2;
constexpr int32_t kKeys = (256 + 10 + 252 + 1) << kStepsLog2;  // of finite energies: up to 2^10 squares of floats a block
constexpr uint32_t kMisplaced = 0xffffffffu;

// Tables of all widths: that of w bits has its 2^w entries from 2^w on. As Tables but for their number; a width without a table
// has a reach of 0 and levels of 0.
struct TablesByWidth {
  double reach[kWidest + 1];  // standard deviations that 1 stands for, in rounding to the nearest
  float levels[512], scaled_inverse_gaps[512], tree[512], decoded[512];
  float smallest_level[kWidest + 1], dither[kWidest + 1];
};

// Where widths and codes lie in a record, in 32-bit words, and where the places of blocks are kept.
struct Placing {
  uint32_t widths_offset, codes_offset;
  uint32_t rows;     // of 32 words, that codes may fill
  uint32_t stride;   // places of a record: one for every kPlaced blocks, then that of the end of all codes, in rows
  uint32_t* places;  // sums of the widths before; of a record whose widths cannot be, the last is kMisplaced
  uint32_t lowest;   // width that has a table
  uint32_t reserved;
};

ALQ_DEVICE WidthBlocks blocks_of(const Group& group) {
  return {group.elements, group.bucket_size > kTile ? group.bucket_size : kTile};
}

// Call f(Width<w>()) for a width of 1 to 8.
template <int w>
struct Width {
  static constexpr int bits = w;
};
template <typename F>
ALQ_DEVICE void with_width(uint32_t width, F f) {
  switch (width) {
    case 1: return f(Width<1>());  // [width 1]
    case 2: return f(Width<2>());  // [width 2]
    case 3: return f(Width<3>());  // [width 3]
    case 4: return f(Width<4>());  // [width 4]
    case 5: return f(Width<5>());  // [width 5]
    case 6: return f(Width<6>());  // [width 6]
    case 7: return f(Width<7>());  // [width 7]
    case 8: return f(Width<8>());  // [width 8]
  }
}

// The width of a block, and the row of 32 words, among all codes, where its own start.
struct Place {
  uint32_t width, row;
};

// Return the sum of the four bytes of a word.
ALQ_DEVICE uint32_t sum_of_bytes(uint32_t word) {
  const uint32_t pairs = (word & 0x00ff00ffu) + (word >> 8 & 0x00ff00ffu);
  return (pairs + (pairs >> 16)) & 0xffffu;
}

// Return where a block's codes lie; all threads of the warp must call it. `places` are those of the record.
ALQ_DEVICE Place place_of(const Placing& placing, const uint32_t* record, const uint32_t* places, uint32_t block,
                          uint32_t blocks, uint32_t tiles) {
  const uint32_t lane = threadIdx.x % kLanes, first = block / kPlaced * kPlaced, inside = block - first;
  const uint32_t word = first + 4 * lane < blocks ? record[placing.widths_offset + first / 4 + lane] : 0;
  // A sum over the warp, for of that compilers know that it is one number: a switch over it does not part the threads.
  const uint32_t width = sum_of_warp(lane == inside / 4 ? word >> 8 * (inside % 4) & 0xffu : 0);
  uint32_t before = 4 * lane < inside ? word : 0;
  if (4 * lane + 4 > inside && 4 * lane < inside) before &= (1u << 8 * (inside % 4)) - 1;
  return {width, (places[block / kPlaced] + sum_of_warp(sum_of_bytes(before))) * tiles};
}

// What the threads of a block bring, added up: before this one, and of all. All threads must call it; `warps` is shared.
struct Scanned {
  uint64_t before, all;
};
ALQ_DEVICE Scanned scan_block(uint64_t value, uint64_t* warps) {
  const uint32_t lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  uint64_t sum = value;
  for (uint32_t by = 1; by < kLanes; by *= 2) {
    const uint64_t other = from_lane<kLanes>(sum, lane - by);
    if (lane >= by) sum += other;
  }
  __syncthreads();  // those that were there have been read
  if (lane == kLanes - 1) warps[warp] = sum;
  __syncthreads();
  Scanned scanned = {sum - value, 0};
  for (uint32_t w = 0; w < kWarps; ++w) {
    if (w < warp) scanned.before += warps[w];
    scanned.all += warps[w];
  }
  return scanned;
}

// Write the places of the blocks of a record whose widths are known to all threads of the block, which must all call it;
// return the sum of the words of its widths, to one thread all of it. `warps` is shared.
ALQ_DEVICE uint32_t place_blocks(const Placing& placing, const WidthBlocks& cut, const uint32_t* record, uint32_t* places,
                                 uint64_t* warps) {
  const uint32_t lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint32_t blocks = static_cast<uint32_t>(cut.count()), groups = placing.stride - 1;
  const uint32_t* widths = record + placing.widths_offset;
  uint64_t sum = 0;
  uint32_t check = 0, wrong = 0;
  // A warp at a time takes the widths of kPlaced blocks, and a thread keeps what one warp has found.
  for (uint32_t from = 0; from < groups; from += kThreads) {
    uint32_t found = 0;
    for (uint32_t k = 0; k < kLanes; ++k) {
      const uint32_t group = from + warp * kLanes + k, first = group * kPlaced + 4 * lane;
      const uint32_t word = first < blocks ? widths[first / 4] : 0;
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t width = word >> 8 * i & 0xffu;
        wrong |= first + i < blocks ? width > kWidest || (width && width < placing.lowest) : 0;
      }
      const uint32_t last = first < blocks && blocks - first < 4 ? (1u << 8 * (blocks - first)) - 1 : 0xffffffffu;
      check += word;
      const uint32_t group_sum = sum_of_warp(sum_of_bytes(word & last));
      if (lane == k) found = group_sum;
    }
    const Scanned scanned = scan_block(found, warps);
    if (from + threadIdx.x < groups) places[from + threadIdx.x] = static_cast<uint32_t>(sum + scanned.before);
    sum += scanned.all;
  }
  const Scanned all = scan_block(uint64_t{check} << 32 | wrong, warps);  // the check is a sum modulo 2^32
  if (threadIdx.x) return 0;
  const uint32_t width = widths[(blocks - 1) / 4] >> 8 * ((blocks - 1) % 4) & 0xffu;
  const uint64_t filled = (sum - width) * (cut.size / kTile) + cut.rows_of(blocks - 1, width);
  const bool fits = static_cast<uint32_t>(all.all) == 0 && filled <= placing.rows;
  places[groups] = fits ? static_cast<uint32_t>(filled) : kMisplaced;
  return static_cast<uint32_t>(all.all >> 32);
}

// Write the key of the energy of each block, count the keys of all but the last block, and write to the record what buckets
// without codes send in place of a norm: NaN where they are broken, else zero. A chunk a block, as encode takes them.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) block_energies(Group group, Tensors<T> tensors, int chunk_size, int32_t* keys,
                                                              uint32_t* counts, uint32_t* record) {
  ALQ_DYNAMIC_SHARED(float, memory);
  __shared__ double lanes[kThreads];
  const Coordinates<false> chunk = {memory};
  const uint32_t begin = blockIdx.x * static_cast<uint32_t>(chunk_size), left = group.elements - begin;
  const int size = left < static_cast<uint32_t>(chunk_size) ? left : chunk_size, d = group.bucket_size;
  const int lane = threadIdx.x % kLanes;
  load_chunk(tensors, begin, size, memory);
  for (int i = size + threadIdx.x; i < (size + d - 1) / d * d; i += kThreads) chunk[i] = 0;
  __syncthreads();
  const WidthBlocks cut = blocks_of(group);
  const uint32_t blocks = static_cast<uint32_t>(cut.count());
  const auto energy_of = [&](int start, bool writes, auto bucket) {
    double energy = 0;
    if (group.rounds) {
      energy = bucket.total(Add(), Square());
    } else {
      const float norm = norm_of(group, size - start < d ? size - start : d, bucket, 0.0).norm;
      energy = static_cast<double>(norm) * norm;
    }
    const bool broken = is_broken(energy);
    if (writes) record[norms_offset(group) + (begin + start) / d] = broken ? kNan : 0;
    return broken ? 0.0 : energy;
  };
  const auto keep = [&](int start, double energy) {
    const uint32_t block = static_cast<uint32_t>((begin + start) / cut.size);
    const int32_t key = key_of(energy, bits_of(energy));
    keys[block] = key;
    if (key != kNoKey && block + 1 < blocks) atomicAdd(counts + (key - kFirstKey), 1u);
  };
  if (d <= kTile) {
#pragma unroll 1
    for (int first = threadIdx.x / kLanes * kTile; first < size; first += kWarps * kTile) {
      double energy = 0;
#pragma unroll 1
      for (int start = first; start < first + kTile && start < size; start += d)
        energy += energy_of(start, lane == 0, BucketOfWarp<false>{&chunk[start + lane], d / kLanes});
      if (lane == 0) keep(first, energy);
    }
  } else {
#pragma unroll 1
    for (int start = 0; start < size; start += d) {
      const double energy = energy_of(start, threadIdx.x == 0, BucketOfBlock<false>{{&chunk[start]}, d / kTile, lanes});
      if (threadIdx.x == 0) keep(start, energy);
    }
  }
}

// Share rows out among blocks with these keys, and leave `counts` zero: write the record's widths, their sum to its checksum,
// the places of the blocks, and the chance of kWhole with which each was kept in place of its key. `draw` is uniform from 0 to
// 65535. One block.
__global__ void __launch_bounds__(kThreads) share_out(Group group, Placing placing, Ladder ladder, uint32_t draw, int32_t* keys,
                                                      uint32_t* counts, uint32_t* record) {
  __shared__ uint32_t counted[kKeys];
  __shared__ uint64_t warps[kWarps];
  __shared__ int ends[2];  // of the keys that occur
  const WidthBlocks cut = blocks_of(group);
  const uint32_t blocks = static_cast<uint32_t>(cut.count()), last = blocks - 1;
  const int32_t last_key = keys[last], tiles = static_cast<int32_t>(cut.size / kTile);
  if (threadIdx.x == 0) {
    ends[0] = last_key == kNoKey ? kKeys : last_key - kFirstKey;
    ends[1] = last_key == kNoKey ? -1 : last_key - kFirstKey;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kKeys; i += kThreads) {
    counted[i] = counts[i];
    if (!counts[i]) continue;
    counts[i] = 0;
    atomicMin(&ends[0], i);
    atomicMax(&ends[1], i);
  }
  __syncthreads();
  const int first = ends[0], end = ends[1] + 1;
  // Sums of chances are below 2^38, those of rows below 2^25: one number holds both.
  constexpr int kShift = 38;
  constexpr uint64_t kMask = (uint64_t{1} << kShift) - 1;
  const uint32_t kept_rows = static_cast<uint32_t>(cut.rows_of(0, ladder.base));
  const auto needed = [&](int32_t threshold) {
    uint64_t both = 0;
    for (int i = first + threadIdx.x; i < end; i += kThreads)
      if (const uint64_t number = counted[i]) {
        const int32_t key = kFirstKey + i;
        both += number * (tiles * ladder.width(key - threshold)) << kShift;
        both += number * ladder.chance(key, threshold);
      }
    if (threadIdx.x == 0) {
      both += static_cast<uint64_t>(cut.rows_of(last, ladder.width(last_key - threshold))) << kShift;
      both += ladder.chance(last_key, threshold);
    }
    const uint64_t all = scan_block(both, warps).all;
    return static_cast<uint32_t>(all >> kShift) + static_cast<uint32_t>(((all & kMask) + kWhole - 1) / kWhole) * kept_rows;
  };
  const int32_t lowest = kFirstKey + first - ladder.highest();
  int32_t threshold = lowest;
  if (end)
    for (int32_t high = kFirstKey + end + kFewestSteps; threshold < high;) {
      const int32_t middle = threshold + (high - threshold) / 2;
      if (needed(middle) <= placing.rows)
        high = middle;
      else
        threshold = middle + 1;
    }
  const uint32_t rows_left = end ? placing.rows - needed(threshold) : 0;
  uint8_t* widths = reinterpret_cast<uint8_t*>(record + placing.widths_offset);
  uint64_t before = draw;
  for (uint32_t start = 0; start < blocks; start += kThreads) {
    const uint32_t block = start + threadIdx.x;
    const int32_t key = block < blocks ? keys[block] : kNoKey;
    int width = key == kNoKey ? 0 : ladder.width(key - threshold);
    const int wider = key == kNoKey || threshold == lowest ? 0 : ladder.width(key - threshold + 1);
    const bool open = ladder.may_widen(width, wider);
    const uint64_t wanted = open ? cut.rows_of(block, wider) - cut.rows_of(block, width) : 0;
    const uint64_t chance = key == kNoKey ? 0 : ladder.chance(key, threshold);
    const Scanned scanned = scan_block(wanted << kShift | chance, warps);
    const uint64_t sum = before + scanned.before;
    if (open && (sum >> kShift) + wanted <= rows_left) width = wider;
    const bool kept = ((sum & kMask) + chance) / kWhole > (sum & kMask) / kWhole;
    if (kept) width = ladder.base;
    if (block < blocks) {
      widths[block] = static_cast<uint8_t>(width);
      keys[block] = kept ? static_cast<int32_t>(chance) : kWhole;
    }
    before += scanned.all;
  }
  __syncthreads();
  const uint32_t check = place_blocks(placing, cut, record, placing.places, warps);
  if (threadIdx.x == 0) atomicAdd(record + 7, check);
}

}  // namespace alq
