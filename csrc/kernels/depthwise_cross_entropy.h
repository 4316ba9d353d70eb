// Contract of the cross-entropy of scores that a transposed convolution computes without mixing channels, and of its
// gradients. Neither stores the scores: both compute them from the coarse input as they go. The forward op can store
// what the backward op needs to turn a pixel's recomputed scores into its softmax, one score at a time.
//
// Ops: depthwise_conv_transpose2d_cross_entropy and depthwise_conv_transpose2d_cross_entropy_backward.
#pragma once

#include "depthwise_conv_transpose2d_backward.h"

namespace segext {

// With p the softmax of a pixel's scores, t its target, w the class weights, K classes and s the smoothing, its loss is
//   (1 - s) * w[t] * -log p[t]  +  s / K * sum over c of w[c] * -log p[c],
// or zero where the target is `ignored`. A target that is neither ignored nor a class is treated as ignored.
struct CrossEntropy {
  const void* class_weight;  // Sum [channels]; null means that all weights are 1
  double smoothing;
};

// A pixel's normalizer gives the softmax part of the loss's gradient by each score. The part of the target distribution
// is not included.
//   p[c] * a = exp(score[c] - largest) * scale,  where a = (1 - s) * w[t] + s / K * sum over c of w[c],
// or zero if the pixel does not count. The two numbers are kept apart because in their sum, a log-sum-exp, a large
// score would swamp the logarithm. Recomputed scores must be bit-identical, so that none exceeds the largest.
template <typename Sum>
struct alignas(2 * sizeof(Sum)) Normalizer {
  Sum largest, scale;
};

// Labels are the targets in the smallest type that holds them: kNoLabel where a pixel does not count.
template <typename Label>
inline constexpr Label kNoLabel = static_cast<Label>(-1);

SEGEXT_INLINE bool has_byte_labels(int64_t classes) { return classes <= 255; }

// Calls f with a value of the label type for this number of classes.
template <typename Function>
auto with_labels(int64_t classes, Function&& f) {
  return has_byte_labels(classes) ? f(uint8_t{}) : f(int32_t{});
}

// What a row of pixels contributes to the totals, on the CPU.
struct LossRow {
  double loss;
  double weight;    // the sum of w[t] over the pixels that are not ignored
  int64_t invalid;  // the first column whose target is neither ignored nor a class, or -1 if there is none
};

// The totals on CUDA. The host does not wait for them, so it is not told about invalid targets.
struct LossTotals {
  void* loss;     // Sum, or null
  void* weight;   // Sum
  double* parts;  // scratch: [depthwise_cross_entropy_cuda_parts, 2]
};

struct DepthwiseCrossEntropyParams {
  UpsamplingOperands scores;
  CrossEntropy criterion;
  const int64_t* target;  // [N, output_height, output_width]
  int64_t ignored;
  void* losses;       // Sum, of the same shape, or null
  void* normalizers;  // Normalizer<Sum>, of the same shape, or null
  void* labels;       // of the same shape; set if `normalizers` is
  LossRow* rows;      // [N, output_height]; CPU only
  LossTotals totals;  // CUDA only
};

struct DepthwiseCrossEntropyBackwardParams {
  UpsamplingOperands scores;
  CrossEntropy criterion;
  const void* normalizers;  // as stored by the forward op
  const void* labels;
  const void* grad_loss;  // Sum [N, output_height, output_width] or, with `one_value`, one for all pixels
  bool one_value;
  UpsamplingGradients gradients;
};

Work depthwise_cross_entropy_work(const DepthwiseCrossEntropyParams& params);
void depthwise_cross_entropy_cpu(const DepthwiseCrossEntropyParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_cross_entropy_cuda(const DepthwiseCrossEntropyParams& params, CudaStream stream);
// Looks at nothing but its arguments, as the functions do that return GradientParts.
int64_t depthwise_cross_entropy_cuda_parts(const Upsampling& geometry, ElementType type);

Work depthwise_cross_entropy_backward_work(const DepthwiseCrossEntropyBackwardParams& params);
void depthwise_cross_entropy_backward_cpu(const DepthwiseCrossEntropyBackwardParams& params, int64_t begin,
                                          int64_t end);
CudaStatus depthwise_cross_entropy_backward_cuda(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream);
GradientParts depthwise_cross_entropy_backward_cpu_parts(const Upsampling& geometry);
GradientParts depthwise_cross_entropy_backward_cuda_parts(const Upsampling& geometry);

}  // namespace segext
