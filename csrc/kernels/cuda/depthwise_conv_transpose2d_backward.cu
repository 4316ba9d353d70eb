// Launches the requested gradients of upsampling and the sums of their parts.
#include "depthwise_conv_transpose2d_backward.cuh"

namespace segext {

GradientParts depthwise_conv_transpose2d_backward_cuda_parts(const Upsampling& g) {
  const auto division = divide_parts(g);
  if (!division) return {1, 1};
  const int64_t parts = g.samples * unit_blocks(g, *division);
  return {parts, parts * units_of(g)};
}

CudaStatus depthwise_conv_transpose2d_backward_cuda(const DepthwiseConvTranspose2dBackwardParams& params,
                                                    CudaStream stream) {
  return for_float(params.call.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    const StoredGradients<T> gradients{static_cast<const T*>(params.grad_output)};
    return launch_gradients<T>(params.call, params.gradients, gradients, stream);
  });
}

CudaStatus sum_parts_cuda(const SumPartsParams& params, CudaStream stream) {
  return for_float(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    return launch(sum_parts_kernel<T>, params.size, stream, static_cast<const typename Element<T>::Wide*>(params.parts),
                  static_cast<T*>(params.total), params.count, params.size);
  });
}

}  // namespace segext
