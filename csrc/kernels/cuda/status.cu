// The text of a CUDA status, for layers that do not include CUDA's headers.
#include "../work.h"
#include "runtime.cuh"

namespace segext {

const char* cuda_status_text(CudaStatus status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // namespace segext
