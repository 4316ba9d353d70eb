// The gradients of upsampled scores' cross-entropy, for the kernels of upsampling_gradients.cuh. Scores are made once
// more, and with a pixel's normalizer (cross_entropy.cuh), two numbers for all its classes, become its share of a
// gradient wherever that is needed: no map of the scores' size is ever there.
#pragma once

#include "cross_entropy.cuh"
#include "upsampling_gradients.cuh"

namespace segext {

// With the contract's symbols, and g the gradient of the pixel's loss:
//   exp(score - largest) * scale  -  g * ((1 - s) * [c = t] + s / K) * w[c]
template <typename Wide>
struct ScoreGradients {
  Criterion<Wide> criterion;
  LossGradients<Wide> grad_loss;
  const Normalizer<Wide>* __restrict__ normalizers;

  // By the scores of a class.
  template <typename Index>
  struct Plane {
    const ScoreGradients& all;
    Index c;
    Wide of_target, of_other;  // what g is multiplied by, where the class is the target and where it is not

    template <typename Score>
    __device__ __forceinline__ Wide at(int64_t pixel, const Score& score) const {
      const Normalizer<Wide> normalizer = all.normalizers[pixel];
      const Index label = all.criterion.template label_at<Index>(pixel);
      const Wide factor = label == c ? of_target : label < 0 ? Wide{0} : of_other;
      const Wide gradient = exponential(score() - normalizer.largest) * normalizer.scale;
      return factor == 0 ? gradient : gradient - all.grad_loss.at(pixel) * factor;
    }
  };

  template <typename Index>
  __device__ __forceinline__ Plane<Index> plane(Index, Index c) const {
    const Wide weight = criterion.weight_of(c), of_other = criterion.each * weight;
    return {*this, c, (1 - criterion.smoothing) * weight + of_other, of_other};
  }
};

}  // namespace segext
