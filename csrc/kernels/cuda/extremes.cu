// Launches the kernel that finds the minimum and maximum of int64 values.
#include "extremes.cuh"

namespace segext {

CudaStatus extremes_cuda(const ExtremesParams& params, CudaStream stream) {
  return launch(extremes_kernel, extremes_parts(params.count) * Launch::kBlockThreads, stream, params.values,
                params.count, params.ignored, params.parts);
}

}  // namespace segext
