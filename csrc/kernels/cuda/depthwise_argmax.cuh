// Kernels for the label map of upsampled scores. Scores are computed, compared and discarded in registers.
//
//   depthwise_argmax_cells_kernel   convolution kernels that span at most two strides, e.g. all bilinear ones
//   depthwise_argmax_kernel         everything else: one pixel per thread
//
// Only the labels, and the largest scores on request, are written. A store of labels writes one byte per thread; the
// bytes of a warp are adjacent and are written as one sector.
#pragma once

#include "score_cells.cuh"

namespace segext {

template <typename T>
struct LabelArrays {
  uint8_t* __restrict__ labels;
  T* __restrict__ best;  // or null
};

// The largest score of one pixel and its class, for classes that come in ascending order. The first of equal scores is
// kept. A NaN beats every number, and nothing beats a NaN.
template <typename Wide>
struct BestClass {
  static constexpr Wide kLowest = -std::numeric_limits<Wide>::infinity();
  Wide score = kLowest;
  int32_t label = 0;

  __device__ __forceinline__ void take(Wide next, int32_t next_label) {
    const bool beats = !(next <= score) && score == score;
    score = beats ? next : score;
    label = beats ? next_label : label;
  }
};

// The number of cells of a thread, all in one column.
inline constexpr int kLabelCells = 4;

template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_argmax_cells_kernel(ScoreOperands<T> operands, LabelArrays<T> arrays, UpsamplingShape<int32_t> shape,
                                  Cells cells, ClassChunk chunk) {
  using Wide = WideOf<T>;
  using Scores = ScoreCells<T, kLabelCells, kChannelsLast>;
  const Scores scores(operands, shape, cells);
  BestClass<Wide> best[Scores::kPixels];
  scores.for_each_class(chunk, [&](int k, int32_t c, Wide score) { best[k].take(score, c); });
  scores.for_each_pixel([&](int k, int64_t pixel) {
    arrays.labels[pixel] = static_cast<uint8_t>(best[k].label);
    if (arrays.best != nullptr) arrays.best[pixel] = Element<T>::narrow(best[k].score);
  });
}

// `runs` counts the pixels of a sample.
template <typename T, typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_argmax_kernel(ScoreOperands<T> operands, LabelArrays<T> arrays, UpsamplingShape<Index> shape,
                            Divisor<Index> by_width, WarpRuns<Index> runs) {
  using Wide = WideOf<T>;
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  Index column;
  const Index row = by_width.divide(lane.element, &column);
  const T* input = operands.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
  BestClass<Wide> best;
  scores_of_pixel(operands, shape, input, row, column,
                  [&](Index c, Wide score) { best.take(score, static_cast<int32_t>(c)); });
  const int64_t pixel = static_cast<int64_t>(lane.sample) * runs.elements + lane.element;
  arrays.labels[pixel] = static_cast<uint8_t>(best.label);
  if (arrays.best != nullptr) arrays.best[pixel] = Element<T>::narrow(best.score);
}

}  // namespace segext
