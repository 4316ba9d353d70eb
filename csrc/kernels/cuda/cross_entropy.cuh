// What forward and backward of the cross-entropy of upsampled scores share: the exponential, and the criterion.
#pragma once

#include "../depthwise_cross_entropy.h"
#include "score_cells.cuh"

namespace segext {

// The exponential of a number that is not above zero, or NaN. Of a float, half the instructions of expf, as accurate,
// and zero where it is denormal: with t below x / ln 2, by little,
//   exp(x) = 2^t * exp(x - t * ln 2) = 2^t * (1 + excess),
// where the excess is less than 2^-15 and not negative; minus infinity has none but through saturation.
__device__ __forceinline__ float exponential(float x) {
  constexpr float kLog2E = 1.44269514f;  // rounded up
  constexpr float kLn2 = 0.693147182f;
  const float t = __fmul_rd(x, kLog2E), excess = __saturatef(fmaf(t, -kLn2, x)), power = ptx::exp2_approx(t);
  return fmaf(power, excess, power);
}
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

// CrossEntropy on the device.
template <typename Wide>
struct Criterion {
  const Wide* __restrict__ class_weight;  // or null
  int64_t classes;
  Wide smoothing, each;  // the latter is every class's share of it

  Criterion(const CrossEntropy& criterion, int64_t classes)
      : class_weight(static_cast<const Wide*>(criterion.class_weight)),
        classes(classes),
        smoothing(criterion.smoothing > 0 ? static_cast<Wide>(criterion.smoothing) : Wide{0}),
        each(smoothing / static_cast<Wide>(classes)) {}

  // Of a class, or of -1.
  template <typename Index>
  __device__ __forceinline__ Wide weight_of(Index label) const {
    return label < 0 ? Wide{0} : class_weight == nullptr ? Wide{1} : class_weight[label];
  }

  // What the gradient of a pixel's loss by its target's score is multiplied by, apart from the softmax.
  __device__ __forceinline__ Wide of_target(Wide weight) const { return (1 - smoothing) * weight + each * weight; }

  __device__ __forceinline__ Wide weight_of_all() const {
    if (class_weight == nullptr) return static_cast<Wide>(classes);
    Wide sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += class_weight[c];
    return sum;
  }
};

}  // namespace segext
