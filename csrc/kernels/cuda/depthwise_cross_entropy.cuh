// The cross-entropy of upsampled scores: the loss of every pixel, then the totals.
//
//   depthwise_cross_entropy_cells_kernel   convolution kernels that span at most two strides, e.g. all bilinear ones
//   depthwise_cross_entropy_kernel         everything else: one pixel per thread
//   depthwise_cross_entropy_totals_kernel  adds up the totals of the blocks of either
//
// The first two make one pass over the classes. Only label smoothing takes a second pass, because it needs the largest
// score first.
#pragma once

#include "block_reduce.cuh"
#include "cross_entropy.cuh"

namespace segext {

// The softmax of a pixel's scores, computed online, class by class: the largest score so far, and the sum of the
// exponentials of all scores less the largest. A new largest score scales the sum down. Either way, a class takes one
// exponential.
template <typename Wide>
struct PixelSoftmax {
  Wide largest = std::numeric_limits<Wide>::lowest();  // finite, so that scores of minus infinity are below it
  Wide sum = 0;
  Wide picked = 0;  // the target's score

  __device__ __forceinline__ void take(Wide score, bool is_target) {
    const Wide above = score - largest;
    const Wide power = exponential(-std::fabs(above));
    sum = above > 0 ? multiply_add(sum, power, Wide{1}) : sum + power;
    largest = above > 0 ? score : largest;
    picked = is_target ? score : picked;
  }

  // NaN if the largest score is infinite, because then every probability is NaN. Zero if all scores are minus infinity,
  // which turns everything computed from it into NaN.
  __device__ __forceinline__ Wide total() const { return sum + (largest - largest); }
};

// The target of each pixel.
struct Targets {
  const int64_t* __restrict__ values;
  int64_t ignored, classes;

  // The class of a pixel, or -1 if the pixel does not count: its target is ignored or not a class.
  template <typename Index>
  __device__ __forceinline__ Index label_at(int64_t pixel) const {
    const int64_t t = values[pixel];
    return t >= 0 && t < classes && t != ignored ? static_cast<Index>(t) : Index{-1};
  }
};

// Writes the loss of each pixel, what its gradients need, and what the pixels of each block add to the totals.
template <typename Wide>
struct LossWriter {
  Wide* __restrict__ losses;                   // or null
  Normalizer<Wide>* __restrict__ normalizers;  // or null
  void* __restrict__ labels;                   // not null if `normalizers` is not
  double* __restrict__ parts;                  // [blocks, 2]: loss, weight

  struct Totals {
    double loss = 0, weight = 0;
  };

  // `below`: the sum over classes of class weight * (score - largest score). It is used only with label smoothing.
  template <typename Index>
  __device__ __forceinline__ void write(const Criterion<Wide>& criterion, int64_t pixel, Index label,
                                        const PixelSoftmax<Wide>& softmax, Wide below, Totals* totals) const {
    const Wide weight = criterion.weight_of(label), total = softmax.total(), log = logarithm(total);
    // Not (largest + log) - score: with large scores, that sum would lose the logarithm to rounding.
    Wide loss = weight * (log - (softmax.picked - softmax.largest)), share = weight;
    if (criterion.smoothing > 0) {
      const Wide of_all = criterion.weight_of_all();
      loss = (1 - criterion.smoothing) * loss + criterion.each * (of_all * log - below);
      share = label < 0 ? Wide{0} : (1 - criterion.smoothing) * weight + criterion.each * of_all;
    }
    loss = label < 0 ? Wide{0} : loss;
    if (losses != nullptr) losses[pixel] = loss;
    if (normalizers != nullptr) {
      normalizers[pixel] = {softmax.largest, share / total};
      if (has_byte_labels(criterion.classes)) {
        static_cast<uint8_t*>(labels)[pixel] = static_cast<uint8_t>(label);
      } else {
        static_cast<int32_t*>(labels)[pixel] = static_cast<int32_t>(label);
      }
    }
    totals->loss += loss;
    totals->weight += weight;
  }

  // All threads of the block must call this.
  __device__ __forceinline__ void finish(const Totals& totals) const {
    const double loss = block_sum(totals.loss), weight = block_sum(totals.weight);
    if (threadIdx.x != 0) return;
    parts[2 * static_cast<int64_t>(blockIdx.x)] = loss;
    parts[2 * static_cast<int64_t>(blockIdx.x) + 1] = weight;
  }
};

// The number of cells of a thread, all in one column. Fewer than for labels, because a softmax takes twice the
// registers.
inline constexpr int kSoftmaxCells = 2;

template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_cells_kernel(ScoreOperands<T> operands, Targets targets, Criterion<WideOf<T>> criterion,
                                         LossWriter<WideOf<T>> writer, UpsamplingShape<int32_t> shape, Cells cells,
                                         ClassChunk chunk) {
  using Wide = WideOf<T>;
  using Scores = ScoreCells<T, kSoftmaxCells, kChannelsLast>;
  const Scores scores(operands, shape, cells);
  PixelSoftmax<Wide> softmax[Scores::kPixels];
  int32_t label[Scores::kPixels];
  Wide below[Scores::kPixels];
#pragma unroll
  for (int k = 0; k < Scores::kPixels; ++k) {
    label[k] = -1;
    below[k] = 0;
  }
  scores.for_each_pixel([&](int k, int64_t pixel) { label[k] = targets.template label_at<int32_t>(pixel); });
  scores.for_each_class(chunk, [&](int k, int32_t c, Wide score) { softmax[k].take(score, c == label[k]); });
  if (criterion.smoothing > 0) {
    scores.for_each_class(chunk, [&](int k, int32_t c, Wide score) {
      below[k] = multiply_add(criterion.weight_of(c), score - softmax[k].largest, below[k]);
    });
  }
  typename LossWriter<Wide>::Totals totals;
  scores.for_each_pixel(
      [&](int k, int64_t pixel) { writer.write(criterion, pixel, label[k], softmax[k], below[k], &totals); });
  writer.finish(totals);
}

// `runs` counts the pixels of a sample.
template <typename T, typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_kernel(ScoreOperands<T> operands, Targets targets, Criterion<WideOf<T>> criterion,
                                   LossWriter<WideOf<T>> writer, UpsamplingShape<Index> shape, Divisor<Index> by_width,
                                   WarpRuns<Index> runs) {
  using Wide = WideOf<T>;
  const auto lane = runs.lane();
  typename LossWriter<Wide>::Totals totals;
  if (lane.sample < runs.samples && lane.present) {
    Index column;
    const Index row = by_width.divide(lane.element, &column);
    const int64_t pixel = static_cast<int64_t>(lane.sample) * runs.elements + lane.element;
    const T* input = operands.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
    const Index label = targets.template label_at<Index>(pixel);
    PixelSoftmax<Wide> softmax;
    Wide below = 0;
    scores_of_pixel(operands, shape, input, row, column, [&](Index c, Wide score) { softmax.take(score, c == label); });
    if (criterion.smoothing > 0) {
      scores_of_pixel(operands, shape, input, row, column, [&](Index c, Wide score) {
        below = multiply_add(criterion.weight_of(c), score - softmax.largest, below);
      });
    }
    writer.write(criterion, pixel, label, softmax, below, &totals);
  }
  writer.finish(totals);
}

// One block adds up the totals of all blocks, always in the same order.
template <typename Wide>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_totals_kernel(const double* __restrict__ parts, int64_t count, Wide* __restrict__ loss,
                                          Wide* __restrict__ weight) {
  double loss_sum = 0, weight_sum = 0;
  for (int64_t k = threadIdx.x; k < count; k += Launch::kBlockThreads) {
    loss_sum += parts[2 * k];
    weight_sum += parts[2 * k + 1];
  }
  loss_sum = block_sum(loss_sum);
  weight_sum = block_sum(weight_sum);
  if (threadIdx.x != 0) return;
  if (loss != nullptr) *loss = static_cast<Wide>(loss_sum);
  *weight = static_cast<Wide>(weight_sum);
}

}  // namespace segext
