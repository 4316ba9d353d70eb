// The gradients of the cross-entropy of upsampled scores, as a Source for the kernels of upsampling_gradients.cuh.
// Scores are recomputed wherever they are needed. With a pixel's normalizer, which the forward kernels stored, a score
// becomes the pixel's share of a gradient. So no map of the size of the scores ever exists.
//
// Apart from arithmetic, these kernels are bound by what they read at each pixel for every class: normalizer and label.
#pragma once

#include "cross_entropy.cuh"
#include "upsampling_gradients.cuh"

namespace segext {

// The gradient of a score is, with the symbols of depthwise_cross_entropy.h and with g the gradient of the pixel's
// loss:
//   exp(score - largest) * scale * g  -  g * ((1 - s) * [c = t] + s / K) * w[c]
template <typename Wide, typename Label>
struct ScoreGradients {
  static constexpr int kRowsAtOnce = 4;
  Criterion<Wide> criterion;
  const Wide* __restrict__ grad_loss;
  bool one_value;
  const Normalizer<Wide>* __restrict__ normalizers;
  const Label* __restrict__ labels;

  // The gradients with respect to the scores of one class.
  template <typename Index>
  struct Column {
    const ScoreGradients& all;
    const Normalizer<Wide>* normalizers;  // of the next row
    const Label* labels;                  // likewise
    Index c, width;
    // Plain: without label smoothing, the second term exists only for the target, and all pixels have the same, finite
    // `grad`. Being finite, it leaves the gradient of a pixel that does not count at zero. The target's gradient is
    // then smaller by `share`.
    bool plain;
    Wide grad, share;

    template <int kRows, typename Score>
    __device__ __forceinline__ void read(const Score& score, Wide (&gradients)[kRows]) const {
      if constexpr (kRows == 1) {
        gradients[0] = read_any(score);
      } else {
        Normalizer<Wide> normalizer[kRows];
        Label label[kRows];
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          normalizer[k] = normalizers[k * width];
          label[k] = __ldg(labels + k * width);
        }
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          gradients[k] = exponential(score(k) - normalizer[k].largest) * (normalizer[k].scale * grad);
          if (label[k] == c) gradients[k] -= share;
        }
      }
    }

    // The gradient in one row, whether or not the column is plain.
    template <typename Score>
    __device__ __forceinline__ Wide read_any(const Score& score) const {
      const Normalizer<Wide> normalizer = *normalizers;
      const Label label = __ldg(labels);
      const bool counts = label != kNoLabel<Label>;
      const int64_t pixel = labels - all.labels;  // counted across all samples
      const Wide g = !counts ? Wide{0} : all.one_value ? grad : all.grad_loss[pixel];
      const Wide gradient = exponential(score(0) - normalizer.largest) * (normalizer.scale * g);
      const Wide weight = all.criterion.weight_of(c), of_other = all.criterion.each * weight;
      const Wide factor = label == c ? all.criterion.of_target(weight) : of_other;
      return !counts || factor == 0 ? gradient : gradient - g * factor;
    }

    __device__ __forceinline__ void advance(Index rows) {
      normalizers += rows * static_cast<int64_t>(width);
      labels += rows * static_cast<int64_t>(width);
    }
  };

  template <typename Index>
  __device__ __forceinline__ Column<Index> column(const UpsamplingShape<Index>& shape, Index sample, Index c, Index y,
                                                  Index x) const {
    const int64_t first = (sample * static_cast<int64_t>(shape.rows.pixels) + y) * shape.columns.pixels + x;
    const Wide grad = grad_loss[0];
    return {*this,
            normalizers + first,
            labels + first,
            c,
            shape.columns.pixels,
            one_value && !(criterion.smoothing > 0) && grad - grad == 0,
            grad,
            grad * criterion.of_target(criterion.weight_of(c))};
  }
};

}  // namespace segext
