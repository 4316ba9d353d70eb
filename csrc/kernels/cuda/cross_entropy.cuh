// What forward and backward of the cross-entropy of upsampled scores share: the criterion, the softmax of a pixel, and
// the kernels that take it of every pixel.
//
//   depthwise_cross_entropy_cells_kernel   kernels that span at most two strides, such as every bilinear one
//   depthwise_cross_entropy_kernel         everything else: one pixel a thread
//
// Both go once through the classes, and hand the softmax to a writer: of losses, or of what gradients need. Only label
// smoothing needs the scores again, after their largest is known.
#pragma once

#include "../depthwise_cross_entropy.h"
#include "block_reduce.cuh"
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
  const int64_t* __restrict__ target;
  const Wide* __restrict__ class_weight;  // or null
  int64_t ignored, classes;
  Wide smoothing, each;  // the latter is every class's share of it

  Criterion(const CrossEntropy& criterion, int64_t classes)
      : target(criterion.target),
        class_weight(static_cast<const Wide*>(criterion.class_weight)),
        ignored(criterion.ignored),
        classes(classes),
        smoothing(criterion.smoothing > 0 ? static_cast<Wide>(criterion.smoothing) : Wide{0}),
        each(smoothing / static_cast<Wide>(classes)) {}

  // The class of a pixel, -1 where it does not count.
  template <typename Index>
  __device__ __forceinline__ Index label_at(int64_t pixel) const {
    return label_of<Index>(target[pixel]);
  }

  template <typename Index>
  __device__ __forceinline__ Index label_of(int64_t t) const {
    return t >= 0 && t < classes && t != ignored ? static_cast<Index>(t) : Index{-1};
  }

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

// The softmax of a pixel's scores, of classes that come one after the other: their largest, and the sum of exponentials
// of what they are below it. A larger score scales the sum down: one exponential a class, whichever way it goes.
template <typename Wide>
struct PixelSoftmax {
  Wide largest = std::numeric_limits<Wide>::lowest();  // not infinite: scores of minus infinity are below it
  Wide sum = 0;
  Wide picked = 0;  // the target's score

  __device__ __forceinline__ void take(Wide score, bool is_target) {
    const Wide above = score - largest;
    const Wide power = exponential(-std::fabs(above));
    sum = above > 0 ? multiply_add(sum, power, Wide{1}) : sum + power;
    largest = above > 0 ? score : largest;
    picked = is_target ? score : picked;
  }

  // NaN where the largest score is infinite, so is every probability then; zero where all are minus infinity, which
  // makes NaN of whatever it is used for.
  __device__ __forceinline__ Wide total() const { return sum + (largest - largest); }
};

// Writes the loss of each pixel, and what the pixels of each block add to the totals.
template <typename T>
struct LossWriter {
  using Wide = typename Element<T>::Wide;
  static constexpr bool kSmooths = true;
  Wide* __restrict__ losses;   // or null
  double* __restrict__ parts;  // [blocks, 2]: loss, weight

  struct Totals {
    double loss = 0, weight = 0;
  };

  // `below`: the sum over classes of class weight times score less the largest; of no use without smoothing.
  template <typename Index>
  __device__ __forceinline__ void write(const Criterion<Wide>& criterion, int64_t pixel, Index label,
                                        const PixelSoftmax<Wide>& softmax, Wide below, Totals* totals) const {
    const Wide weight = criterion.weight_of(label), log = logarithm(softmax.total());
    // Not (largest + log) - score: of large scores, the sum would lose the logarithm.
    Wide loss = weight * (log - (softmax.picked - softmax.largest));
    if (criterion.smoothing > 0) {
      const Wide of_all = criterion.weight_of_all() * log - below;
      loss = (1 - criterion.smoothing) * loss + criterion.each * of_all;
    }
    loss = label < 0 ? Wide{0} : loss;
    if (losses != nullptr) losses[pixel] = loss;
    totals->loss += loss;
    totals->weight += weight;
  }

  // All threads of the block call.
  __device__ __forceinline__ void finish(const Totals& totals) const {
    const double loss = block_sum(totals.loss), weight = block_sum(totals.weight);
    if (threadIdx.x != 0) return;
    parts[2 * static_cast<int64_t>(blockIdx.x)] = loss;
    parts[2 * static_cast<int64_t>(blockIdx.x) + 1] = weight;
  }
};

// The gradient of each pixel's loss; one value may stand for all.
template <typename Wide>
struct LossGradients {
  const Wide* __restrict__ values;
  bool one_value;

  __device__ __forceinline__ Wide at(int64_t pixel) const { return values[one_value ? 0 : pixel]; }
};

// What turns a pixel's scores into its share of gradients: exp(score - largest) * scale.
template <typename Wide>
struct alignas(2 * sizeof(Wide)) Normalizer {
  Wide largest, scale;
};

// Writes those.
template <typename T>
struct NormalizerWriter {
  using Wide = typename Element<T>::Wide;
  static constexpr bool kSmooths = false;
  Normalizer<Wide>* __restrict__ normalizers;
  LossGradients<Wide> grad_loss;

  struct Totals {};

  template <typename Index>
  __device__ __forceinline__ void write(const Criterion<Wide>& criterion, int64_t pixel, Index label,
                                        const PixelSoftmax<Wide>& softmax, Wide, Totals*) const {
    const Wide grad = label < 0 ? Wide{0} : grad_loss.at(pixel);
    Wide all = grad * criterion.weight_of(label);
    if (criterion.smoothing > 0) {
      all = (1 - criterion.smoothing) * all + grad * criterion.each * criterion.weight_of_all();
    }
    normalizers[pixel] = {softmax.largest, all / softmax.total()};
  }

  __device__ __forceinline__ void finish(const Totals&) const {}
};

// Cells that a thread has in a column: fewer than a label takes, for a softmax has twice the registers.
inline constexpr int kSoftmaxCells = 2;

template <typename T, bool kChannelsLast, typename Writer>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_cells_kernel(ScoreOperands<T> operands, Criterion<typename Element<T>::Wide> criterion,
                                         Writer writer, UpsamplingShape<int32_t> shape, Cells cells, ClassChunk chunk) {
  using Wide = typename Element<T>::Wide;
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
  scores.for_each_pixel([&](int k, int64_t pixel) { label[k] = criterion.template label_at<int32_t>(pixel); });
  scores.for_each_class(chunk, [&](int k, int32_t c, Wide score) { softmax[k].take(score, c == label[k]); });
  if (Writer::kSmooths && criterion.smoothing > 0) {
    scores.for_each_class(chunk, [&](int k, int32_t c, Wide score) {
      below[k] = multiply_add(criterion.weight_of(c), score - softmax[k].largest, below[k]);
    });
  }
  typename Writer::Totals totals;
  scores.for_each_pixel(
      [&](int k, int64_t pixel) { writer.write(criterion, pixel, label[k], softmax[k], below[k], &totals); });
  writer.finish(totals);
}

// `runs` counts the pixels of a sample.
template <typename T, typename Index, typename Writer>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_kernel(ScoreOperands<T> operands, Criterion<typename Element<T>::Wide> criterion,
                                   Writer writer, UpsamplingShape<Index> shape, Divisor<Index> by_width,
                                   WarpRuns<Index> runs) {
  using Wide = typename Element<T>::Wide;
  const auto lane = runs.lane();
  typename Writer::Totals totals;
  if (lane.sample < runs.samples && lane.present) {
    Index column;
    const Index row = by_width.divide(lane.element, &column);
    const int64_t pixel = static_cast<int64_t>(lane.sample) * runs.elements + lane.element;
    const T* input = operands.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
    const Index label = criterion.template label_at<Index>(pixel);
    PixelSoftmax<Wide> softmax;
    Wide below = 0;
    scores_of_pixel(operands, shape, input, row, column, [&](Index c, Wide score) { softmax.take(score, c == label); });
    if (Writer::kSmooths && criterion.smoothing > 0) {
      scores_of_pixel(operands, shape, input, row, column, [&](Index c, Wide score) {
        below = multiply_add(criterion.weight_of(c), score - softmax.largest, below);
      });
    }
    writer.write(criterion, pixel, label, softmax, below, &totals);
  }
  writer.finish(totals);
}

inline int64_t output_pixels(const Upsampling& g) { return g.output_height * g.output_width; }

template <typename T>
std::optional<ScoreCellLaunch> divide_softmax(const Upsampling& g) {
  if (!fits_int32(g, Addend{})) return std::nullopt;
  return divide_score_cells<T>(g, kSoftmaxCells, Launch::kMaxSharedBytes - kBlockReduceBytes);
}

// Blocks that take the softmax of every pixel.
template <typename T>
int64_t softmax_blocks(const Upsampling& g) {
  const auto division = divide_softmax<T>(g);
  return launch_blocks(division ? division->cells.threads : warp_run_threads(g.samples, output_pixels(g)));
}

// Launches the kernel for these scores.
template <typename T, typename Writer>
CudaStatus launch_softmax(const DepthwiseConvTranspose2dParams& scores, const CrossEntropy& cross_entropy,
                          const Writer& writer, CudaStream stream) {
  const Upsampling& g = scores.geometry;
  const ScoreOperands<T> operands(scores);
  const Criterion<typename Element<T>::Wide> criterion(cross_entropy, g.channels);
  if (const auto division = divide_softmax<T>(g)) {
    const auto kernel = g.channels_last ? depthwise_cross_entropy_cells_kernel<T, true, Writer>
                                        : depthwise_cross_entropy_cells_kernel<T, false, Writer>;
    return launch_with_shared_memory(kernel, division->cells.threads, division->shared_bytes, stream, operands,
                                     criterion, writer, UpsamplingShape<int32_t>(g), division->cells.cells,
                                     division->chunk);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    return launch(depthwise_cross_entropy_kernel<T, Index, Writer>, warp_run_threads(g.samples, output_pixels(g)),
                  stream, operands, criterion, writer, UpsamplingShape<Index>(g), Divisor<Index>(g.output_width),
                  warp_runs<Index>(g.samples, output_pixels(g)));
  });
}

}  // namespace segext
