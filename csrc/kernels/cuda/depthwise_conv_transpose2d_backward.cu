// Launches the requested gradients of upsampling, and the summation of their parts.
#include "depthwise_conv_transpose2d_backward.cuh"

namespace segext {

GradientParts depthwise_conv_transpose2d_backward_cuda_parts(const Upsampling& g) {
  const auto division = divide_walks(g);
  return division ? GradientParts{division->unit_blocks, division->unit_blocks * division->units} : count_parts(g);
}

CudaStatus depthwise_conv_transpose2d_backward_cuda(const DepthwiseConvTranspose2dBackwardParams& params,
                                                    CudaStream stream) {
  return for_float(params.call.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    const StoredGradients<T> gradients{static_cast<const T*>(params.grad_output)};
    UpsamplingGradients out = params.gradients;
    CudaStatus status = launch_channels_last(params.call, gradients.data, &out, stream);
    if (status == cudaSuccess) status = launch_input_x2(params.call, gradients.data, &out, stream);
    return status == cudaSuccess ? launch_gradients<T>(params.call, out, gradients, stream) : status;
  });
}

CudaStatus sum_parts_cuda(const SumPartsParams& params, CudaStream stream) {
  return for_float(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    const int64_t blocks = ceil_divide(params.size, Launch::kWarpThreads);
    return launch_with_shared_memory(sum_parts_kernel<T>, blocks * Launch::kBlockThreads,
                                     Launch::kBlockThreads * static_cast<int64_t>(sizeof(double)), stream,
                                     static_cast<const typename Element<T>::Wide*>(params.parts),
                                     static_cast<T*>(params.total), params.count, params.size);
  });
}

}  // namespace segext
