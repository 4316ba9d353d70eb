// Interface between kernels and the layer above: units of CPU work for its threads, and CUDA's stream and status
// without CUDA's headers (libtorch's glue is compiled even where there is no CUDA toolkit).
#pragma once

#include <cstdint>

struct CUstream_st;

namespace segext {

// `units` pieces of work, which may run in any order on any thread. Each costs about as much as moving `elements`
// elements; from this the caller decides how many units are worth waking a thread for.
struct Work {
  int64_t units;
  int64_t elements;
};

using CudaStream = CUstream_st*;

// A cudaError_t by value: 0 is success.
using CudaStatus = int;

const char* cuda_status_text(CudaStatus status);

}  // namespace segext
