// Contract of the gradients of transposed convolutions whose channels do not mix.
//
// Op: depthwise_conv_transpose2d_backward.
#pragma once

#include "depthwise_conv_transpose2d.h"

namespace segext {

// Below, Sum is the type that sums are taken in: float64 for float64, otherwise float32.

// The gradients of weight and bias are written as partial sums, which sum_parts adds up. Their values therefore do not
// depend on the number of threads. Each pointer may be null.
struct UpsamplingGradients {
  void* input;   // [N, input_channels, height, width], in the memory order of the input
  void* weight;  // Sum [parts, channels, kernel_h, kernel_w]
  void* bias;    // Sum [parts, channels]
};

// The number of parts of each gradient. The functions that tell it, for the CPU and for CUDA, may look at nothing but
// their arguments: callers size buffers by them before they select a device, and the order of sums must not depend on
// which device it is.
struct GradientParts {
  int64_t weight, bias;
};

// Pixels outside either map are skipped, not read as zeros: no product is formed with them, so they cannot turn an
// infinite factor into NaN.
struct DepthwiseConvTranspose2dBackwardParams {
  const void* grad_output;      // [N, channels, output_height, output_width]
  UpsamplingOperands operands;  // of which the bias is not read
  UpsamplingGradients gradients;
};

// total[k] is the sum of part[p][k] over all parts p. The order of this sum depends on the device, but for a given
// count it is always the same.
struct SumPartsParams {
  const void* parts;  // Sum [count, size]
  void* total;        // [size]
  int64_t count, size;
  ElementType type;  // of `total`
};

Work depthwise_conv_transpose2d_backward_work(const DepthwiseConvTranspose2dBackwardParams& params);
void depthwise_conv_transpose2d_backward_cpu(const DepthwiseConvTranspose2dBackwardParams& params, int64_t begin,
                                             int64_t end);
CudaStatus depthwise_conv_transpose2d_backward_cuda(const DepthwiseConvTranspose2dBackwardParams& params,
                                                    CudaStream stream);
GradientParts depthwise_conv_transpose2d_backward_cpu_parts(const Upsampling& geometry);
GradientParts depthwise_conv_transpose2d_backward_cuda_parts(const Upsampling& geometry);

Work sum_parts_work(const SumPartsParams& params);
void sum_parts_cpu(const SumPartsParams& params, int64_t begin, int64_t end);
CudaStatus sum_parts_cuda(const SumPartsParams& params, CudaStream stream);

}  // namespace segext
