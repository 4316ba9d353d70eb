// Sums and other pairwise reductions over the threads of a block.
#pragma once

#include "launch.cuh"

namespace segext {

// Bytes of static shared memory that block_reduce takes for a 64-bit type.
inline constexpr int64_t kBlockReduceBytes = Launch::kBlockWarps * sizeof(double);

// Combines the values of all threads of a block, always in the same order. Only thread 0 gets the result. All threads
// of the block must call this.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, const Combine& combine) {
  __shared__ T of_warp[Launch::kBlockWarps];
#pragma unroll
  for (int step = Launch::kWarpThreads / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  __syncthreads();  // thread 0 may still be reading the values of the previous call
  if (threadIdx.x % Launch::kWarpThreads == 0) of_warp[threadIdx.x / Launch::kWarpThreads] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 1; warp < Launch::kBlockWarps; ++warp) value = combine(value, of_warp[warp]);
  }
  return value;
}

__device__ __forceinline__ double block_sum(double value) {
  return block_reduce(value, [](double a, double b) { return a + b; });
}

}  // namespace segext
