// Contract of the cross-entropy of scores that a transposed convolution makes without mixing channels, and of its
// gradients. Neither stores scores: both make them from the coarse input as they go. The former may keep what makes a
// pixel's softmax of its scores, one at a time, for the latter.
//
// Ops: depthwise_conv_transpose2d_cross_entropy and depthwise_conv_transpose2d_cross_entropy_backward.
#pragma once

#include "depthwise_conv_transpose2d_backward.h"

namespace segext {

// With p the softmax of a pixel's scores, t its target, w the class weights, K classes and s the smoothing, its loss is
//   (1 - s) * w[t] * -log p[t]  +  s / K * sum over c of w[c] * -log p[c],
// and zero where the target is `ignored`. A target that is neither ignored nor a class counts as ignored.
struct CrossEntropy {
  const void* class_weight;  // Sum [channels], or null: all one
  double smoothing;
};

// A pixel's normalizer turns its scores into their shares of the loss's gradient, but for the target's own:
//   p[c] * a = exp(score[c] - largest) * scale,  where a = (1 - s) * w[t] + s / K * sum over c of w[c],
// or zero if the pixel does not count. Two numbers, for their sum would lose the logarithm beside a large score. Scores
// that are made again must be the same to the bit, so that none is above the largest.
template <typename Sum>
struct alignas(2 * sizeof(Sum)) Normalizer {
  Sum largest, scale;
};

// Labels are targets in the fewest bytes: kNoLabel where a pixel does not count.
template <typename Label>
inline constexpr Label kNoLabel = static_cast<Label>(-1);

SEGEXT_INLINE bool has_byte_labels(int64_t classes) { return classes <= 255; }

// Calls f with a value of the type of labels of so many classes.
template <typename Function>
auto with_labels(int64_t classes, Function&& f) {
  return has_byte_labels(classes) ? f(uint8_t{}) : f(int32_t{});
}

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
  const int64_t* target;  // [N, output_height, output_width]
  int64_t ignored;
  void* losses;       // Sum, likewise, or null
  void* normalizers;  // Normalizer<Sum>, likewise, or null
  void* labels;       // likewise; there if the former are
  LossRow* rows;      // [N, output_height]; the CPU's
  LossTotals totals;  // CUDA's
};

struct DepthwiseCrossEntropyBackwardParams {
  DepthwiseConvTranspose2dParams scores;  // as above
  CrossEntropy criterion;
  const void* normalizers;  // as kept
  const void* labels;
  const void* grad_loss;  // Sum [N, output_height, output_width], or one value for all pixels
  bool one_value;
  UpsamplingGradients gradients;
};

Work depthwise_cross_entropy_work(const DepthwiseCrossEntropyParams& params);
void depthwise_cross_entropy_cpu(const DepthwiseCrossEntropyParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_cross_entropy_cuda(const DepthwiseCrossEntropyParams& params, CudaStream stream);
int64_t depthwise_cross_entropy_cuda_parts(const Upsampling& geometry, ElementType type);

Work depthwise_cross_entropy_backward_work(const DepthwiseCrossEntropyBackwardParams& params);
void depthwise_cross_entropy_backward_cpu(const DepthwiseCrossEntropyBackwardParams& params, int64_t begin,
                                          int64_t end);
CudaStatus depthwise_cross_entropy_backward_cuda(const DepthwiseCrossEntropyBackwardParams& params, CudaStream stream);
GradientParts depthwise_cross_entropy_backward_cpu_parts(const Upsampling& geometry);
GradientParts depthwise_cross_entropy_backward_cuda_parts(const Upsampling& geometry);

}  // namespace segext
