// The gradients of upsampling, computed from the gradients of its output, whatever supplies those. All sums are
// gathered, in one fixed order.
//
//   depthwise_input_gradient_kernel    any geometry: one element per thread
//   depthwise_weight_gradient_kernel   likewise: one weight per block
//   depthwise_bias_gradient_kernel     likewise: one class per block
//
// and, for convolution kernels that span at most two strides, depthwise_input_gradient_cells.cuh and
// depthwise_weight_gradient_cells.cuh.
//
// A Source supplies the gradients of the output. Its column(shape, sample, c, y, x) returns a position in a column of
// one channel, and advance(rows) moves this position down. The position may be outside the output, except for
// read(score, gradients), which reads as many rows, from the position on, as `gradients` has elements. It may read more
// than one row only if the column is `plain`, and never more than kRowsAtOnce, for which registers have room. score(k)
// computes the k-th output element itself, for a source whose gradients depend on it.
#pragma once

#include "block_reduce.cuh"
#include "depthwise_input_gradient_cells.cuh"
#include "depthwise_weight_gradient_cells.cuh"

namespace segext {

// Computes the gradient of one score at a time.
template <typename T, typename Index, typename Source>
struct AnyScoreGradients {
  using Wide = WideOf<T>;
  ScoreOperands<T> operands;
  Source gradients;
  UpsamplingShape<Index> shape;

  __device__ __forceinline__ WeightsInMemory<T, Index> weights() const {
    return {operands.weight, shape.rows.kernel, shape.columns.kernel};
  }

  __device__ __forceinline__ Wide at(Index sample, const Place<Index>& place) const {
    const auto score = [&](int) {
      const T* input = operands.input + sample * static_cast<int64_t>(shape.input.elements);
      return sum_of_taps(shape, input, weights(), place, operands.bias_of(place.channel));
    };
    Wide gradient[1];
    gradients.column(shape, sample, place.channel, place.row, place.column).read(score, gradient);
    return gradient[0];
  }
};

// `runs` counts the elements of a sample of the input.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_input_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, T* __restrict__ grad_input,
                                    WarpRuns<Index> runs) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> from = shape.input.place(lane.element);
  Wide sum = 0;
  for (Index k = 0; k < shape.multiplier; ++k) {
    const Index c = from.channel * shape.multiplier + k;
    for (Index i = shape.rows.first_tap(from.row); shape.rows.has_tap(from.row, i); ++i) {
      for (Index j = shape.columns.first_tap(from.column); shape.columns.has_tap(from.column, j); ++j) {
        const Place<Index> at{c, shape.rows.pixel(from.row, i), shape.columns.pixel(from.column, j)};
        sum = multiply_add(scores.at(lane.sample, at), scores.weights().at(c, i, j), sum);
      }
    }
  }
  grad_input[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = Element<T>::narrow(sum);
}

// Each block has one weight. Its threads go through the input pixels that the weight multiplies.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_weight_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, WideOf<T>* __restrict__ part,
                                     Index samples, Divisor<Index> by_width, Divisor<Index> by_kernel_w,
                                     Divisor<Index> by_kernel_h) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  Index i, j;
  const Index c = by_kernel_h.divide(by_kernel_w.divide(static_cast<Index>(blockIdx.x), &j), &i);
  const Index pixels = shape.rows.windows * shape.columns.windows;
  double sum = 0;
  for (Index n = 0; n < samples; ++n) {
    for (Index e = static_cast<Index>(threadIdx.x); e < pixels; e += Launch::kBlockThreads) {
      Place<Index> from{shape.by_multiplier.quotient(c), 0, 0};
      from.row = by_width.divide(e, &from.column);
      const Place<Index> at{c, shape.rows.pixel(from.row, i), shape.columns.pixel(from.column, j)};
      if (!shape.rows.contains(at.row) || !shape.columns.contains(at.column)) continue;
      const T* input = scores.operands.input + n * static_cast<int64_t>(shape.input.elements);
      sum += scores.at(n, at) * Element<T>::widen(input[shape.input.element(from)]);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = static_cast<Wide>(sum);
}

// Each block has one class.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_bias_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, WideOf<T>* __restrict__ part,
                                   Index samples, Divisor<Index> by_output_width) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  Place<Index> at{static_cast<Index>(blockIdx.x), 0, 0};
  double sum = 0;
  for (Index n = 0; n < samples; ++n) {
    for (Index e = static_cast<Index>(threadIdx.x); e < shape.rows.pixels * shape.columns.pixels;
         e += Launch::kBlockThreads) {
      at.row = by_output_width.divide(e, &at.column);
      sum += scores.at(n, at);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = static_cast<Wide>(sum);
}

}  // namespace segext
