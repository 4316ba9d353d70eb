// Contract of the gradients of transposed convolutions whose channels do not mix.
//
// Op: depthwise_conv_transpose2d_backward.
#pragma once

#include "depthwise_conv_transpose2d.h"

namespace segext {

// Below, Sum is the type that sums are taken in: float64 for float64, else float32.

// Gradients of weights and bias come in parts, for sum_parts to add up: so their sums do not depend on threads. Each
// may be null.
struct UpsamplingGradients {
  void* input;   // [N, channels / multiplier, height, width], in the memory order of the input
  void* weight;  // Sum [parts, channels, kernel_h, kernel_w]
  void* bias;    // Sum [parts, channels]
};

// How many there are.
struct GradientParts {
  int64_t weight, bias;
};

// A pixel that does not exist, of either map, is no zero: nothing is multiplied by it.
struct DepthwiseConvTranspose2dBackwardParams {
  const void* grad_output;              // [N, channels, output_height, output_width]
  DepthwiseConvTranspose2dParams call;  // has no `bias`, no `addend` and no `output`
  UpsamplingGradients gradients;
};

// total[k] = the sum over parts p of part[p][k], in an order that is the device's and, for a count, always the same.
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
