// Sums over the threads of a block.
#pragma once

#include "launch.cuh"

namespace segext {

// Static shared memory of block_sum.
inline constexpr int64_t kBlockSumBytes = Launch::kBlockWarps * sizeof(double);

// The sum over the threads of a block, in one order; it is thread 0's. All threads of the block call.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double sums[Launch::kBlockWarps];
#pragma unroll
  for (int step = Launch::kWarpThreads / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();  // nobody reads the sums of the call before
  if (threadIdx.x % Launch::kWarpThreads == 0) sums[threadIdx.x / Launch::kWarpThreads] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 0; warp < Launch::kBlockWarps; ++warp) sum += sums[warp];
  }
  return sum;
}

}  // namespace segext
