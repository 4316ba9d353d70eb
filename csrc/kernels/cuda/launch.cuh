// How every kernel is launched: as a one-dimensional grid, nearly always of blocks of one size.
//
// A grid can have up to 2^31 - 1 blocks, or 5 * 10^11 threads. No GPU's memory holds that many elements, so kernels
// need no grid-stride loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../work.h"
#include "runtime.cuh"

namespace segext {

struct Launch {
  static constexpr int kWarpThreads = 32;
  static constexpr int kBlockThreads = 256;
  static constexpr int kBlockWarps = kBlockThreads / kWarpThreads;
  // The minimum number of blocks per multiprocessor, for __launch_bounds__. Kernels need so few registers that many
  // more blocks fit. But without a minimum, ptxas spills a register or two on some architectures to fit one more block.
  static constexpr int kMinBlocks = 2;
  static constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;
  // The shared memory that every architecture grants a block without an explicit opt-in to more.
  static constexpr int64_t kMaxSharedBytes = 48 * 1024;
  static_assert(kBlockThreads % kWarpThreads == 0, "a block is whole warps: they exchange codes");
};

// The number of this thread in its grid.
__device__ __forceinline__ int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * Launch::kBlockThreads + threadIdx.x;
}

inline int64_t ceil_divide(int64_t dividend, int64_t divisor) { return (dividend + divisor - 1) / divisor; }

inline int64_t round_up(int64_t number, int64_t multiple) { return ceil_divide(number, multiple) * multiple; }

// The number of blocks of the usual size that have so many threads.
inline int64_t blocks_for(int64_t threads) { return ceil_divide(threads, Launch::kBlockThreads); }

// Whether int32_t can number so many threads, and those that fill up the last block.
inline bool threads_fit_int32(int64_t threads) {
  return threads < std::numeric_limits<int32_t>::max() - Launch::kBlockThreads;
}

// Returns the status. An error is also cleared from the CUDA runtime, so that no later call reports it again.
inline CudaStatus cleared(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

// What limits how many blocks a device runs at once. Asking for it takes calls of the CUDA runtime.
struct DeviceLimits {
  int64_t multiprocessors, shared_bytes;  // shared memory per multiprocessor

  // Those of the current device. They allow one block if the device is unknown, in which case no launch succeeds
  // either.
  static DeviceLimits current() {
    int device = 0, multiprocessors = 0, shared = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) {
      status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    if (status == cudaSuccess) {
      status = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    }
    return cleared(status) == cudaSuccess ? DeviceLimits{multiprocessors, shared} : DeviceLimits{1, 0};
  }

  // The number of blocks that run at once: per multiprocessor, as many as `by_registers` and as shared memory has room
  // for, if each takes so many bytes of it.
  int64_t resident_blocks(int64_t by_registers, int64_t block_bytes) const {
    constexpr int64_t kReservedBytes = 1024;  // per block
    const int64_t by_memory = shared_bytes / (block_bytes + kReservedBytes);
    return multiprocessors * std::max<int64_t>(std::min(by_registers, by_memory), 1);
  }
};

// A division of work: the number of blocks, and the work of each.
struct BlockWork {
  int64_t blocks, work;
};

// Of the sizes first, first + step, ... up to `most`, returns the first with the least
//   ceil(blocks / places) * work
// which is the time that a launch takes on a device that runs `places` blocks at a time, if it takes as long for the
// last ones, which may be few, as for the others. divide(size) returns the BlockWork of a size. Sizes beyond the first
// one that holds `all` are not considered.
template <typename Divide>
int64_t choose_soonest(int64_t first, int64_t most, int64_t step, int64_t all, int64_t places, const Divide& divide) {
  int64_t best = first, least_work = std::numeric_limits<int64_t>::max();
  for (int64_t size = first; size <= most && size < all + step; size += step) {
    const BlockWork division = divide(size);
    const int64_t work = ceil_divide(division.blocks, places) * division.work;
    if (work < least_work) {
      best = size;
      least_work = work;
    }
  }
  return best;
}

// Launches `kernel` on `stream` with `blocks` blocks of `block_threads` threads and with `shared_bytes` of dynamic
// shared memory each.
template <typename... Parameters, typename... Arguments>
CudaStatus launch_grid(void (*kernel)(Parameters...), int64_t blocks, int64_t block_threads, int64_t shared_bytes,
                       CudaStream stream, const Arguments&... arguments) {
  if (blocks > Launch::kMaxBlocks) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(block_threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cleared(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// The same with at least `threads` threads in blocks of the usual size. With no threads, it launches nothing and
// returns success.
template <typename... Parameters, typename... Arguments>
CudaStatus launch_with_shared_memory(void (*kernel)(Parameters...), int64_t threads, int64_t shared_bytes,
                                     CudaStream stream, const Arguments&... arguments) {
  if (threads <= 0) return cudaSuccess;
  return launch_grid(kernel, blocks_for(threads), Launch::kBlockThreads, shared_bytes, stream, arguments...);
}

template <typename... Parameters, typename... Arguments>
CudaStatus launch(void (*kernel)(Parameters...), int64_t threads, CudaStream stream, const Arguments&... arguments) {
  return launch_with_shared_memory(kernel, threads, 0, stream, arguments...);
}

}  // namespace segext
