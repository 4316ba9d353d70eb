// How every kernel is launched: one-dimensional grids of one block size.
//
// A grid holds up to 2^31 - 1 blocks, 5 * 10^11 threads. No memory has that many elements, so kernels need no
// grid-stride loop.
#pragma once

#include <cstdint>

#include "../work.h"
#include "runtime.cuh"

namespace segext {

struct Launch {
  static constexpr int kWarpThreads = 32;
  static constexpr int kBlockThreads = 256;
  static constexpr int kBlockWarps = kBlockThreads / kWarpThreads;
  // Of one multiprocessor. Kernels need few registers and many more blocks fit; but where no number is given, ptxas
  // spills a register or two for some architectures to fit yet one more.
  static constexpr int kMinBlocks = 2;
  static constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  // What every architecture gives a block without being asked for more.
  static constexpr int64_t kMaxSharedBytes = 48 * 1024;
  static_assert(kBlockThreads % kWarpThreads == 0, "a block is whole warps: they exchange codes");
};

// Number of this thread in its grid.
__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * Launch::kBlockThreads + threadIdx.x;
}

inline int64_t ceil_divide(int64_t dividend, int64_t divisor) { return (dividend + divisor - 1) / divisor; }

inline int64_t launch_blocks(int64_t threads) { return ceil_divide(threads, Launch::kBlockThreads); }

// Runs `kernel` on at least `threads` threads of `stream`, with so much dynamic shared memory a block. No threads: no
// launch, success. An error is returned and forgotten, so that nobody meets it again.
template <typename... Parameters, typename... Arguments>
CudaStatus launch_with_shared_memory(void (*kernel)(Parameters...), int64_t threads, int64_t shared_bytes,
                                     CudaStream stream, const Arguments&... arguments) {
  if (threads <= 0) return cudaSuccess;
  const int64_t blocks = launch_blocks(threads);
  if (blocks > Launch::kMaxBlocks) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(Launch::kBlockThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

template <typename... Parameters, typename... Arguments>
CudaStatus launch(void (*kernel)(Parameters...), int64_t threads, CudaStream stream, const Arguments&... arguments) {
  return launch_with_shared_memory(kernel, threads, 0, stream, arguments...);
}

}  // namespace segext
