// Computes the scores of all classes, one class after another, at a few pixels per thread. For kernels that reduce the
// scores to a label or a loss and never store them.
//
//   ScoreCells       convolution kernels that span at most two strides: each thread has some pixels of a column
//   scores_of_pixel  everything else: each thread has one pixel
//
// Such kernels are bound by arithmetic: four products per class and pixel, plus what is then done with the score.
#pragma once

#include "upsampling.cuh"

namespace segext {

template <typename T>
struct ScoreOperands {
  const T* __restrict__ input;
  const T* __restrict__ weight;
  const T* __restrict__ bias;  // or null

  explicit ScoreOperands(const UpsamplingOperands& operands)
      : input(static_cast<const T*>(operands.input)),
        weight(static_cast<const T*>(operands.weight)),
        bias(static_cast<const T*>(operands.bias)) {}

  template <typename Index>
  __device__ __forceinline__ WideOf<T> bias_of(Index channel) const {
    return bias == nullptr ? WideOf<T>{0} : Element<T>::widen(bias[channel]);
  }
};

// The weights of one kernel column for the kPhases phases of a block. tap[p][0] multiplies the cell's own row of input,
// tap[p][1] the row above it.
template <typename Wide>
struct alignas(kVectorBytes) ColumnWeights {
  Wide tap[kPhases][2];
};

// The classes whose weights a block holds in shared memory at one time, as ColumnWeights [classes, kernel_w].
struct ClassChunk {
  int32_t classes;
  Divisor<int32_t> by_kernel_w;

  // A thread stages whole ColumnWeights: their loads are in flight together, and their stores meet in no bank.
  template <typename T>
  __device__ __forceinline__ void stage(const WeightsInMemory<T, int32_t>& from, const Axis<int32_t>& axis,
                                        int32_t phase, int32_t first, int32_t end) const {
    const TapRows rows(axis, phase);
    auto* staged = dynamic_shared_memory<ColumnWeights<WideOf<T>>>();
    const int32_t count = (end - first) * from.kernel_w;
#pragma unroll 1  // more loads in flight would take registers, and with them blocks
    for (int32_t k = static_cast<int32_t>(threadIdx.x); k < count; k += Launch::kBlockThreads) {
      int32_t j;
      const int32_t channel = first + by_kernel_w.divide(k, &j);
      ColumnWeights<WideOf<T>> weights;
#pragma unroll
      for (int r = 0; r < 2 * kPhases; ++r) {
        const int32_t i = rows.tap[r / 2][r % 2];
        weights.tap[r / 2][r % 2] = i < 0 ? 0 : from.at(channel, i, j);
      }
      staged[k] = weights;
    }
  }
};

// The pixels of a thread, and their scores. The pixels lie in one column of the output: kPhases = 2 neighbouring rows
// in each of kCells vertically adjacent cells. For each class, a thread reads eight weights, and two columns in kCells
// + 1 rows of input. These serve all its pixels (here with four cells):
//
//     input rows      h - 1   a b        pixels    P     row h * s + phase
//                     h       c d                  P     row h * s + phase + 1
//                     ...                          ...
//                     h + 3   i j                  P     row (h + 3) * s + phase
//                                                  P     row (h + 3) * s + phase + 1
//
// Neighbouring threads have neighbouring columns and share inputs through the L1 cache. Weights come from shared
// memory, four at a time. Shared memory holds as many classes as fit, and is refilled with the next ones once these are
// done.
template <typename T, int kCells, bool kChannelsLast>
class ScoreCells {
  using Wide = WideOf<T>;
  static constexpr int kRows = kCells + 1;

 public:
  static constexpr int kPixels = kCells * kPhases;

  __device__ __forceinline__ ScoreCells(const ScoreOperands<T>& operands, const UpsamplingShape<int32_t>& shape,
                                        const Cells& cells)
      : operands_(operands),
        shape_(shape),
        at_(cells.thread()),
        rows_(shape.rows, at_.phase),
        back_(kChannelsLast ? shape.input.column_stride : 1) {
    int32_t phase;
    const int32_t w = shape.columns.by_stride.divide(at_.run + shape.columns.origin, &phase);
    columns_.find(shape.columns, w, phase);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int32_t h = at_.cell - 1 + r;
      rows_present_ |= static_cast<uint32_t>(h >= 0 && h < shape.rows.windows) << r;
    }
    input_ = operands.input + at_.plane * static_cast<int64_t>(shape.input.elements) +
             (at_.cell - 1) * static_cast<int64_t>(shape.input.row_stride) + w * static_cast<int64_t>(back_);
  }

  // Calls take(k, c, score) for each class c, in ascending order, and each of the thread's pixels k. All threads of the
  // block must call this.
  template <typename Take>
  __device__ __forceinline__ void for_each_class(const ClassChunk& chunk, const Take& take) const {
    const WeightsInMemory<T, int32_t> in_memory{operands_.weight, shape_.rows.kernel, shape_.columns.kernel};
    constexpr uint32_t kAllRows = (1u << kRows) - 1;
    const bool whole = columns_.has_own && columns_.has_left && rows_.complete && rows_present_ == kAllRows;
    const T* input = input_;
    int32_t made = 0;  // classes done for the current input channel
    for (int32_t first = 0; first < shape_.channels; first += chunk.classes) {
      const int32_t end = first + chunk.classes < shape_.channels ? first + chunk.classes : shape_.channels;
      __syncthreads();  // other threads may still be reading the previous weights
      chunk.stage(in_memory, shape_.rows, at_.phase, first, end);
      __syncthreads();
      if (!at_.present) continue;
      const auto* weights = dynamic_shared_memory<ColumnWeights<Wide>>();
      for (int32_t c = first; c < end; ++c, weights += shape_.columns.kernel) {
        if (whole) {
          make_scores<true>(c, weights, input, take);
        } else {
          make_scores<false>(c, weights, input, take);
        }
        if (++made == shape_.multiplier) {
          made = 0;
          input += kChannelsLast ? 1 : shape_.input.channel_stride;
        }
      }
    }
  }

  // Calls visit(k, pixel) for each of the thread's pixels that lies inside the output. `pixel` is its number, counted
  // across all samples.
  template <typename Visit>
  __device__ __forceinline__ void for_each_pixel(const Visit& visit) const {
    if (!at_.present) return;
#pragma unroll
    for (int k = 0; k < kPixels; ++k) {
      const int cell = k / kPhases, p = k % kPhases;
      const int32_t y = (at_.cell + cell) * shape_.rows.stride + at_.phase + p - shape_.rows.origin;
      if (at_.phase + p >= shape_.rows.stride || !shape_.rows.contains(y)) continue;
      visit(k, (static_cast<int64_t>(at_.plane) * shape_.rows.pixels + y) * shape_.columns.pixels + at_.run);
    }
  }

 private:
  // kWhole: all taps exist, and so does all the input that they multiply.
  template <bool kWhole, typename Take>
  __device__ __forceinline__ void make_scores(int32_t c, const ColumnWeights<Wide>* weights, const T* input,
                                              const Take& take) const {
    ColumnWeights<Wide> own_weight{}, left_weight{};
    if (kWhole || columns_.has_own) own_weight = weights[columns_.own];
    if (kWhole || columns_.has_left) left_weight = weights[columns_.left];
    Wide own[kRows], left[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool exists = kWhole || (rows_present_ >> r & 1) != 0;
      const T* pixel = input + r * shape_.input.row_stride;
      own[r] = exists && (kWhole || columns_.has_own) ? Element<T>::widen(*pixel) : Wide{0};
      left[r] = exists && (kWhole || columns_.has_left) ? Element<T>::widen(*(pixel - back_)) : Wide{0};
    }
    const Wide bias = operands_.bias_of(c);
#pragma unroll
    for (int k = 0; k < kPixels; ++k) {
      const int cell = k / kPhases, p = k % kPhases;
      Wide score = bias;
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        const int r = cell + 1 - above;
        if (!kWhole && ((rows_present_ >> r & 1) == 0 || rows_.tap[p][above] < 0)) continue;
        score = multiply_add(left[r], left_weight.tap[p][above], score);
        score = multiply_add(own[r], own_weight.tap[p][above], score);
      }
      take(k, c, score);
    }
  }

  const ScoreOperands<T>& operands_;
  const UpsamplingShape<int32_t>& shape_;
  const Cells::Thread at_;
  const TapRows rows_;
  const int32_t back_;  // distance between neighbouring input columns, in elements
  ColumnTaps columns_;
  uint32_t rows_present_ = 0;  // bit r: whether input row at_.cell - 1 + r exists
  const T* input_;             // the thread's own column in input row at_.cell - 1
};

// The launch parameters of a kernel that uses ScoreCells.
struct ScoreCellLaunch {
  CellLaunch cells;
  ClassChunk chunk;
  int64_t shared_bytes;
};

// Returns nothing if the convolution kernel or the sizes rule ScoreCells out. `shared_limit` is the number of bytes of
// shared memory that weights may take.
template <typename T>
std::optional<ScoreCellLaunch> divide_score_cells(const Upsampling& g, int64_t cells_per_thread, int64_t shared_limit) {
  const int64_t class_bytes = g.kernel_w * static_cast<int64_t>(sizeof(ColumnWeights<WideOf<T>>));
  if (!spans_two_strides(g) || class_bytes > shared_limit) return std::nullopt;
  const auto cells = divide_cells(g, g.samples, g.output_width, cells_per_thread, kPhases);
  if (!cells) return std::nullopt;
  const int64_t fit = shared_limit / class_bytes, classes = g.channels < fit ? g.channels : fit;
  const ClassChunk chunk{static_cast<int32_t>(classes), Divisor<int32_t>(g.kernel_w)};
  return ScoreCellLaunch{*cells, chunk, classes * class_bytes};
}

// Computes the scores of one pixel, in the sample whose input starts at `input`. Calls take(c, score) for each class,
// in ascending order.
template <typename T, typename Index, typename Take>
__device__ __forceinline__ void scores_of_pixel(const ScoreOperands<T>& operands, const UpsamplingShape<Index>& shape,
                                                const T* __restrict__ input, Index row, Index column,
                                                const Take& take) {
  const WeightsInMemory<T, Index> weights{operands.weight, shape.rows.kernel, shape.columns.kernel};
  for (Place<Index> at{0, row, column}; at.channel < shape.channels; ++at.channel) {
    take(at.channel, sum_of_taps(shape, input, weights, at, operands.bias_of(at.channel)));
  }
}

}  // namespace segext
