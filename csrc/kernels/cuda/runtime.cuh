// The CUDA runtime, the half-precision intrinsics and the instructions of ptx.cuh, or the CPU emulation of them that
// runs the kernels in tests. The only file here that distinguishes the two.
#pragma once

#if defined(SEGEXT_CUDA_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "ptx.cuh"
#endif

namespace segext {

// The shared memory whose size is given at launch. Kernels of every type get it from here: `extern` arrays of their own
// would all need the same type.
template <typename T>
__device__ __forceinline__ T* dynamic_shared_memory() {
#if defined(SEGEXT_CUDA_EMULATION)
  return static_cast<T*>(cuda_emulation::dynamic_shared_memory());
#else
  extern __shared__ __align__(16) unsigned char segext_shared_memory[];
  return reinterpret_cast<T*>(segext_shared_memory);
#endif
}

}  // namespace segext
