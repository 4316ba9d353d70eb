// The kernel that finds the minimum and maximum of int64 values: each block handles one part.
#pragma once

#include "../extremes.h"
#include "block_reduce.cuh"

namespace segext {

__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    extremes_kernel(const int64_t* __restrict__ values, int64_t count, int64_t ignored, int64_t* __restrict__ parts) {
  constexpr int64_t kEach = kExtremesPart / Launch::kBlockThreads;
  static_assert(kEach * Launch::kBlockThreads == kExtremesPart, "threads share a part evenly");
  const int64_t first = blockIdx.x * kExtremesPart + threadIdx.x;
  int64_t low = 0, high = 0;
#pragma unroll 8  // keeps eight loads in flight
  for (int64_t k = 0; k < kEach; ++k) {
    const int64_t at = first + k * Launch::kBlockThreads;
    int64_t value = at < count ? values[at] : 0;
    value = value == ignored ? 0 : value;
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  low = block_reduce(low, [](int64_t a, int64_t b) { return a < b ? a : b; });
  high = block_reduce(high, [](int64_t a, int64_t b) { return a > b ? a : b; });
  if (threadIdx.x != 0) return;
  parts[2 * static_cast<int64_t>(blockIdx.x)] = low;
  parts[2 * static_cast<int64_t>(blockIdx.x) + 1] = high;
}

}  // namespace segext
