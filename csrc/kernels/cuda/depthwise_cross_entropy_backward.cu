// Launches the gradients of upsampled scores' cross-entropy: normalizers of every pixel, then each gradient wanted.
#include "depthwise_cross_entropy_backward.cuh"

namespace segext {
namespace {

template <typename T>
CudaStatus launch_type(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream) {
  using Wide = typename Element<T>::Wide;
  const LossGradients<Wide> grad_loss{static_cast<const Wide*>(params.grad_loss), params.one_value};
  auto* normalizers = static_cast<Normalizer<Wide>*>(params.normalizers);
  const NormalizerWriter<T> writer{normalizers, grad_loss};
  const CudaStatus status = launch_softmax<T>(params.scores, params.criterion, writer, stream);
  if (status != cudaSuccess) return status;
  const Criterion<Wide> criterion(params.criterion, params.scores.geometry.channels);
  const ScoreGradients<Wide> gradients{criterion, grad_loss, normalizers};
  return launch_gradients<T>(params.scores, params.gradients, gradients, stream);
}

}  // namespace

CudaStatus depthwise_cross_entropy_backward_cuda(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream) {
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
