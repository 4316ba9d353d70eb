// Launches the requested gradients of the cross-entropy of upsampled scores.
#include "depthwise_cross_entropy_backward.cuh"
#include "upsampling_gradients_launch.cuh"

namespace segext {
namespace {

template <typename T>
CudaStatus launch_type(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream) {
  using Wide = WideOf<T>;
  const int64_t classes = params.scores.geometry.channels;
  return with_labels(classes, [&](auto type) {
    using Label = decltype(type);
    const ScoreGradients<Wide, Label> gradients{
        Criterion<Wide>(params.criterion, classes), static_cast<const Wide*>(params.grad_loss), params.one_value,
        static_cast<const Normalizer<Wide>*>(params.normalizers), static_cast<const Label*>(params.labels)};
    return launch_gradients<T>(params.scores, params.gradients, gradients, stream);
  });
}

}  // namespace

GradientParts depthwise_cross_entropy_backward_cuda_parts(const Upsampling& geometry) { return count_parts(geometry); }

CudaStatus depthwise_cross_entropy_backward_cuda(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream) {
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
