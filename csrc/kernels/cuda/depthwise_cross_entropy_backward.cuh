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
  struct Column {
    const ScoreGradients& all;
    const Normalizer<Wide>* normalizers;  // of the next row
    const int64_t* labels;                // likewise
    Index c, width;
    // Plain: classes that are not the target have no share, and all pixels have one g. Then the target's `share` is
    // what its gradient is less by, if the class counts.
    bool plain, counts;
    Wide share;

    template <int kRows, typename Score>
    __device__ __forceinline__ void read(const Score& score, Wide (&gradients)[kRows]) const {
      if constexpr (kRows == 1) {
        gradients[0] = read_any(score);
      } else {
        Normalizer<Wide> normalizer[kRows];
        int64_t label[kRows];
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          normalizer[k] = normalizers[k * width];
          label[k] = __ldg(labels + k * width);
        }
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          gradients[k] = exponential(score(k) - normalizer[k].largest) * normalizer[k].scale;
          if (label[k] == c && counts) gradients[k] -= share;
        }
      }
    }

    // Of one row, whether the source is plain or not.
    template <typename Score>
    __device__ __forceinline__ Wide read_any(const Score& score) const {
      const Normalizer<Wide> normalizer = *normalizers;
      const Index t = all.criterion.template label_of<Index>(__ldg(labels));
      const Wide gradient = exponential(score(0) - normalizer.largest) * normalizer.scale;
      const Wide weight = all.criterion.weight_of(c), of_other = all.criterion.each * weight;
      const Wide factor = t == c ? all.criterion.of_target(weight) : t < 0 ? Wide{0} : of_other;
      const int64_t pixel = labels - all.criterion.target;  // of all samples'
      return factor == 0 ? gradient : gradient - all.grad_loss.at(pixel) * factor;
    }

    __device__ __forceinline__ void advance(Index rows) {
      normalizers += rows * static_cast<int64_t>(width);
      labels += rows * static_cast<int64_t>(width);
    }
  };

  template <typename Index>
  __device__ __forceinline__ Column<Index> column(const UpsamplingShape<Index>& shape, Index sample, Index c, Index y,
                                                  Index x) const {
    const int64_t first = (sample * static_cast<int64_t>(shape.rows.size) + y) * shape.columns.size + x;
    const Wide of_target = criterion.of_target(criterion.weight_of(c));
    return {*this,
            normalizers + first,
            criterion.target + first,
            c,
            shape.columns.size,
            grad_loss.one_value && !(criterion.smoothing > 0),
            of_target != 0 && c != criterion.ignored,
            grad_loss.at(0) * of_target};
  }
};

}  // namespace segext
