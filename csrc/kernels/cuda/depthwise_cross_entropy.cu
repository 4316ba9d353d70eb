// Launches the cross-entropy of upsampled scores: losses, then their totals.
#include "depthwise_cross_entropy.cuh"

namespace segext {
namespace {

template <typename T>
CudaStatus launch_type(const DepthwiseCrossEntropyParams& params, CudaStream stream) {
  using Wide = typename Element<T>::Wide;
  const LossTotals& totals = params.totals;
  const CudaStatus status = launch_losses<T>(params, stream);
  if (status != cudaSuccess) return status;
  return launch(depthwise_cross_entropy_totals_kernel<Wide>, Launch::kBlockThreads, stream, totals.parts,
                softmax_blocks<T>(params.scores.geometry), static_cast<Wide*>(totals.loss),
                static_cast<Wide*>(totals.weight));
}

}  // namespace

int64_t depthwise_cross_entropy_cuda_parts(const Upsampling& geometry, ElementType type) {
  int64_t parts = 0;
  for_float(type, [&](auto element) {
    parts = softmax_blocks<typename decltype(element)::Type>(geometry);
    return cudaSuccess;
  });
  return parts;
}

CudaStatus depthwise_cross_entropy_cuda(const DepthwiseCrossEntropyParams& params, CudaStream stream) {
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
