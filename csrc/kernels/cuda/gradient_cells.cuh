// What the kernels for the gradients of upsampling share where convolution kernels span at most two strides: what a
// pixel of a cell sees of input and weights, how much registers leave room for, and where parts of sums go.
#pragma once

#include "../depthwise_conv_transpose2d_backward.h"
#include "score_cells.cuh"

namespace segext {

// What a pixel of a cell sees of one row of input, for one class: the elements in its own column and in the one to the
// left. An element is zero if it does not exist or no tap reaches it.
template <typename Wide>
struct InputPair {
  Wide own = 0, left = 0;
  bool exists = false;
};

// A column of the output, and the two input columns of one class that it sees.
template <typename T>
struct ClassColumn {
  using Wide = WideOf<T>;
  const T* own;  // the own column in row 0
  ColumnTaps taps;

  __device__ __forceinline__ ClassColumn(const T* __restrict__ plane, const UpsamplingShape<int32_t>& shape, int32_t w,
                                         int32_t phase)
      : own(plane + w * static_cast<int64_t>(shape.input.column_stride)) {
    taps.find(shape.columns, w, phase);
  }

  __device__ __forceinline__ InputPair<Wide> read(const UpsamplingShape<int32_t>& shape, int32_t h) const {
    return read(shape, h, h >= 0 && h < shape.rows.windows);
  }

  __device__ __forceinline__ InputPair<Wide> read(const UpsamplingShape<int32_t>& shape, int32_t h, bool exists) const {
    InputPair<Wide> pair;
    pair.exists = exists;
    const T* pixel = own + h * static_cast<int64_t>(shape.input.row_stride);
    if (pair.exists && taps.has_own) pair.own = Element<T>::widen(*pixel);
    if (pair.exists && taps.has_left) pair.left = Element<T>::widen(*(pixel - shape.input.column_stride));
    return pair;
  }
};

// The weights of a pixel of a cell, by row of input (the cell's, the one above) and by column of input (its own, the
// one to the left). Zero where there is no tap.
template <typename Wide>
struct alignas(kVectorBytes) PixelWeights {
  Wide tap[2][2] = {};

  template <typename T>
  __device__ __forceinline__ static PixelWeights load(const WeightsInMemory<T, int32_t>& weights,
                                                      const UpsamplingShape<int32_t>& shape, int32_t c, int32_t row,
                                                      int32_t column) {
    PixelWeights result;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int32_t i = tap_row(shape.rows, row, k / 2);
      const int32_t j = shape.columns.tap_at(column + k % 2 * shape.columns.stride);
      if (i >= 0 && j >= 0) result.tap[k / 2][k % 2] = weights.at(c, i, j);
    }
    return result;
  }

  // Adds in the order of the forward kernels, so that scores are the same to the bit and none exceeds the largest score
  // that they found.
  __device__ __forceinline__ Wide score(Wide bias, const InputPair<Wide>& row, bool sees_row,
                                        const InputPair<Wide>& above, bool sees_above) const {
    Wide sum = bias;
    if (sees_row) sum = multiply_add(row.own, tap[0][0], multiply_add(row.left, tap[0][1], sum));
    if (sees_above) sum = multiply_add(above.own, tap[1][0], multiply_add(above.left, tap[1][1], sum));
    return sum;
  }
};

// Whether a thread holds the gradients of several pixels at once, so that the latencies of their loads overlap. float64
// leaves too few registers for that.
template <typename Wide>
inline constexpr bool kManyAtOnce = sizeof(Wide) == sizeof(float);

// The number of blocks per multiprocessor that registers leave room for. Unless the compiler is told, ptxas uses a few
// more registers on some architectures.
inline constexpr int kGradientBlocks = 3;

// The same for kernels whose float64 sums take more registers than that number leaves.
template <typename Wide>
inline constexpr int kSumBlocks = kManyAtOnce<Wide> ? kGradientBlocks : Launch::kMinBlocks;

// Where blocks store their parts of the gradients of weights and bias. Either pointer may be null.
template <typename Wide>
struct PartArrays {
  Wide* __restrict__ weight;  // [parts, channels, kernel_h, kernel_w]: a part for each block that shares a weight
  Wide* __restrict__ bias;    // [parts, units, channels]; units of a plane or, in channels_last, of all planes
  Divisor<int32_t> by_unit_blocks;
  int32_t unit_blocks, units;
};

}  // namespace segext
