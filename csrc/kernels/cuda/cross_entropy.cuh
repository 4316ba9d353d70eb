// What the forward and backward kernels of the cross-entropy of upsampled scores share: the exponential and the
// criterion.
#pragma once

#include "../depthwise_cross_entropy.h"
#include "score_cells.cuh"

namespace segext {

// The exponential of a number that is at most zero, or NaN. The float version takes half the instructions of expf, is
// as accurate, and returns zero where the result would be denormal. With t slightly below x / ln 2,
//   excess = x - t * ln 2  and  exp(x) = 2^t * exp(excess) = 2^t * (1 + excess)  in float32,
// because 0 <= excess < 2^-15. If x is minus infinity, x - t * ln 2 is NaN; saturation turns it into zero.
__device__ __forceinline__ float exponential(float x) {
  constexpr float kLog2E = 1.44269514f;  // rounded up
  constexpr float kLn2 = 0.693147182f;
  const float t = __fmul_rd(x, kLog2E), excess = __saturatef(fmaf(t, -kLn2, x)), power = ptx::exp2_approx(t);
  return fmaf(power, excess, power);
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

// The device's form of CrossEntropy.
template <typename Wide>
struct Criterion {
  const Wide* __restrict__ class_weight;  // or null
  int64_t classes;
  Wide smoothing, each;  // `each`: every class's share of `smoothing`

  Criterion(const CrossEntropy& criterion, int64_t classes)
      : class_weight(static_cast<const Wide*>(criterion.class_weight)),
        classes(classes),
        smoothing(criterion.smoothing > 0 ? static_cast<Wide>(criterion.smoothing) : Wide{0}),
        each(smoothing / static_cast<Wide>(classes)) {}

  // The weight of a class; zero for label -1, which marks a pixel that does not count.
  template <typename Index>
  __device__ __forceinline__ Wide weight_of(Index label) const {
    return label < 0 ? Wide{0} : class_weight == nullptr ? Wide{1} : class_weight[label];
  }

  // The factor (1 - s) * w + s / K * w in the gradient of a pixel's loss with respect to its target's score: the part
  // that does not come from the softmax (see ScoreGradients).
  __device__ __forceinline__ Wide of_target(Wide weight) const { return (1 - smoothing) * weight + each * weight; }

  __device__ __forceinline__ Wide weight_of_all() const {
    if (class_weight == nullptr) return static_cast<Wide>(classes);
    Wide sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += class_weight[c];
    return sum;
  }
};

}  // namespace segext
