// Contract of the cross-entropy of scores that a transposed convolution makes without mixing channels, and of its
// gradients. Neither stores scores: both make them from the coarse input as they go.
//
// Ops: depthwise_conv_transpose2d_cross_entropy and depthwise_conv_transpose2d_cross_entropy_backward.
#pragma once

#include "depthwise_conv_transpose2d_backward.h"

namespace segext {

// With p the softmax of a pixel's scores, t its target, w the class weights, K classes and s the smoothing, its loss is
//   (1 - s) * w[t] * -log p[t]  +  s / K * sum over c of w[c] * -log p[c],
// and zero where the target is `ignored`. A target that is neither ignored nor a class counts as ignored.
struct CrossEntropy {
  const int64_t* target;     // [N, output_height, output_width]
  const void* class_weight;  // Sum [channels], or null: all one
  int64_t ignored;
  double smoothing;
};

// What a row of pixels adds to the totals, on the CPU.
struct LossRow {
  double loss;
  double weight;    // the sum of w[t] over pixels that are not ignored
  int64_t invalid;  // the first column whose target is neither ignored nor a class; -1 without one
};

// The totals on CUDA, where the host does not wait for them and nothing tells it of invalid targets.
struct LossTotals {
  void* loss;     // Sum, or null
  void* weight;   // Sum
  double* parts;  // scratch: [depthwise_cross_entropy_cuda_parts, 2]
};

struct DepthwiseCrossEntropyParams {
  DepthwiseConvTranspose2dParams scores;  // has no `output` and no `addend`
  CrossEntropy criterion;
  void* losses;       // Sum [N, output_height, output_width], or null
  LossRow* rows;      // [N, output_height]; the CPU's
  LossTotals totals;  // CUDA's
};

struct DepthwiseCrossEntropyBackwardParams {
  DepthwiseConvTranspose2dParams scores;  // as above
  CrossEntropy criterion;
  const void* grad_loss;  // Sum [N, output_height, output_width], or one value for all pixels
  bool one_value;
  UpsamplingGradients gradients;
  void* normalizers;  // CUDA's scratch: Sum [N, output_height, output_width, 2]
};

Work depthwise_cross_entropy_work(const DepthwiseCrossEntropyParams& params);
void depthwise_cross_entropy_cpu(const DepthwiseCrossEntropyParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_cross_entropy_cuda(const DepthwiseCrossEntropyParams& params, CudaStream stream);
int64_t depthwise_cross_entropy_cuda_parts(const Upsampling& geometry, ElementType type);

Work depthwise_cross_entropy_backward_work(const DepthwiseCrossEntropyBackwardParams& params);
void depthwise_cross_entropy_backward_cpu(const DepthwiseCrossEntropyBackwardParams& params, int64_t begin,
                                          int64_t end);
CudaStatus depthwise_cross_entropy_backward_cuda(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream);
// On CUDA there are as many as of depthwise_conv_transpose2d_backward.
GradientParts depthwise_cross_entropy_backward_cpu_parts(const Upsampling& geometry);

}  // namespace segext
