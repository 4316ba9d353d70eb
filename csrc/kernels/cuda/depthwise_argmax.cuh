// Kernels of upsampling's label map: scores are made, compared and forgotten in registers.
//
//   depthwise_argmax_cells_kernel   kernels that span at most two strides, such as every bilinear one
//   depthwise_argmax_kernel         everything else: one pixel a thread
//
// What bounds them is arithmetic: four products and a comparison a class and pixel, of which nothing but the label is
// written. Labels are stored a byte a thread: those of a warp are neighbours and leave it as one sector.
#pragma once

#include "upsampling.cuh"

namespace segext {

template <typename T>
struct LabelArrays {
  const T* __restrict__ input;
  const T* __restrict__ weight;
  const T* __restrict__ bias;  // or null
  uint8_t* __restrict__ labels;
  T* __restrict__ best;  // or null
};

// The largest score of one pixel, of classes that come in ascending order. Of equal ones the first stays; a NaN beats
// every number, and nothing beats a NaN.
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

// Cells that a thread has in a column.
inline constexpr int kLabelCells = 4;

// The weights of a kernel column in the rows of a block's phases, by phase and by input row: the cell's, the one above.
template <typename Wide>
struct alignas(kVectorBytes) ColumnWeights {
  Wide tap[kPhases][2];
};

// Classes whose weights a block has at once in shared memory, [classes, kernel_w].
struct ClassChunk {
  int32_t classes;
  Divisor<int32_t> by_kernel_w;

  template <typename T>
  __device__ __forceinline__ void stage(const WeightsInMemory<T, int32_t>& from, const Axis<int32_t>& rows,
                                        int32_t phase, int32_t first, int32_t end) const {
    constexpr int kRows = 2 * kPhases;
    auto* staged = dynamic_shared_memory<typename Element<T>::Wide>();
    const int32_t count = (end - first) * kRows * from.kernel_w;
    for (int32_t k = static_cast<int32_t>(threadIdx.x); k < count; k += Launch::kBlockThreads) {
      int32_t j;
      const int32_t row = by_kernel_w.divide(k, &j);
      const int32_t channel = row / kRows, r = row % kRows;
      const int32_t i = tap_row(rows, phase + r / 2, r % 2);
      staged[(channel * from.kernel_w + j) * kRows + r] = i < 0 ? 0 : from.at(first + channel, i, j);
    }
  }
};

// A thread labels the pixels of one column in kPhases = 2 neighbouring rows of each of kLabelCells cells, one below the
// other. For each class it reads eight weights and two columns of kLabelCells + 1 rows of input, which serve 8 pixels:
//
//     input rows      h - 1   a b        pixels    L     row h * s + phase
//                     h       c d                  L     row h * s + phase + 1
//                     ...                          ...
//                     h + 3   i j                  L     row (h + 3) * s + phase
//                                                  L     row (h + 3) * s + phase + 1
//
// Neighbouring threads have neighbouring columns and share inputs through the L1 cache. Weights come from shared
// memory, four at once: as many classes as fit, then the next ones.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_argmax_cells_kernel(LabelArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                  ClassChunk chunk) {
  using Wide = typename Element<T>::Wide;
  constexpr int kRows = kLabelCells + 1;
  constexpr uint32_t kAllRows = (1u << kRows) - 1;
  const auto at = cells.thread();

  // What the pixels see: bit r of `rows_present` for input row at.cell - 1 + r.
  int32_t phase;
  const int32_t w = shape.columns.by_stride.divide(at.run + shape.columns.padding, &phase);
  const int32_t own_j = shape.columns.tap_at(phase), left_j = shape.columns.tap_at(phase + shape.columns.stride);
  const bool has_own = own_j >= 0 && w < shape.columns.pooled_size;
  const bool has_left = left_j >= 0 && w >= 1 && w - 1 < shape.columns.pooled_size;
  const TapRows rows(shape.rows, at.phase);
  uint32_t rows_present = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int32_t h = at.cell - 1 + r;
    rows_present |= static_cast<uint32_t>(h >= 0 && h < shape.rows.pooled_size) << r;
  }
  const bool whole = has_own && has_left && rows.complete && rows_present == kAllRows;

  const int32_t back = kChannelsLast ? shape.input.column_stride : 1;
  const T* input = arrays.input + at.plane * static_cast<int64_t>(shape.input.elements) +
                   (at.cell - 1) * static_cast<int64_t>(shape.input.row_stride) + w * static_cast<int64_t>(back);
  BestClass<Wide> best[kLabelCells][kPhases];
  int32_t made = 0;  // classes of the current input channel
  const auto take_class = [&](int32_t c, const ColumnWeights<Wide>* weights, auto is_whole) {
    constexpr bool kWhole = decltype(is_whole)::value;
    ColumnWeights<Wide> own_weight{}, left_weight{};
    if (kWhole || has_own) own_weight = weights[own_j];
    if (kWhole || has_left) left_weight = weights[left_j];
    Wide own[kRows], left[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool exists = kWhole || (rows_present >> r & 1) != 0;
      const T* pixel = input + r * shape.input.row_stride;
      own[r] = exists && (kWhole || has_own) ? Element<T>::widen(*pixel) : Wide{0};
      left[r] = exists && (kWhole || has_left) ? Element<T>::widen(*(pixel - back)) : Wide{0};
    }
    const Wide bias = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[c]);
#pragma unroll
    for (int k = 0; k < kLabelCells * kPhases; ++k) {
      const int cell = k / kPhases, p = k % kPhases;
      Wide score = bias;
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        const int r = cell + 1 - above;
        if (!kWhole && ((rows_present >> r & 1) == 0 || rows.tap[p][above] < 0)) continue;
        score = multiply_add(left[r], left_weight.tap[p][above], score);
        score = multiply_add(own[r], own_weight.tap[p][above], score);
      }
      best[cell][p].take(score, c);
    }
    if (++made == shape.multiplier) {
      made = 0;
      input += kChannelsLast ? 1 : shape.input.channel_stride;
    }
  };

  const WeightsInMemory<T, int32_t> in_memory{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  for (int32_t first = 0; first < shape.channels; first += chunk.classes) {
    const int32_t end = first + chunk.classes < shape.channels ? first + chunk.classes : shape.channels;
    if (first > 0) __syncthreads();
    chunk.stage(in_memory, shape.rows, at.phase, first, end);
    __syncthreads();
    if (!at.present) continue;
    const auto* weights = dynamic_shared_memory<ColumnWeights<Wide>>();
    for (int32_t c = first; c < end; ++c, weights += shape.columns.kernel) {
      if (whole) {
        take_class(c, weights, std::true_type{});
      } else {
        take_class(c, weights, std::false_type{});
      }
    }
  }
  if (!at.present) return;

#pragma unroll
  for (int k = 0; k < kLabelCells * kPhases; ++k) {
    const int cell = k / kPhases, p = k % kPhases;
    const int32_t y = (at.cell + cell) * shape.rows.stride + at.phase + p - shape.rows.padding;
    if (at.phase + p >= shape.rows.stride || !shape.rows.contains(y)) continue;
    const int64_t pixel = (static_cast<int64_t>(at.plane) * shape.rows.size + y) * shape.columns.size + at.run;
    arrays.labels[pixel] = static_cast<uint8_t>(best[cell][p].label);
    if (arrays.best != nullptr) arrays.best[pixel] = Element<T>::narrow(best[cell][p].score);
  }
}

// A thread labels one pixel. `runs` counts the pixels of a sample.
template <typename T, typename Index>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_argmax_kernel(LabelArrays<T> arrays, UpsamplingShape<Index> shape, Divisor<Index> by_width,
                            WarpRuns<Index> runs) {
  using Wide = typename Element<T>::Wide;
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  Place<Index> at;
  at.row = by_width.divide(lane.element, &at.column);
  const WeightsInMemory<T, Index> weights{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  const T* input = arrays.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
  BestClass<Wide> best;
  for (at.channel = 0; at.channel < shape.channels; ++at.channel) {
    const Wide bias = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[at.channel]);
    best.take(sum_of_taps(shape, input, weights, at, bias), static_cast<int32_t>(at.channel));
  }
  const int64_t pixel = static_cast<int64_t>(lane.sample) * runs.elements + lane.element;
  arrays.labels[pixel] = static_cast<uint8_t>(best.label);
  if (arrays.best != nullptr) arrays.best[pixel] = Element<T>::narrow(best.score);
}

}  // namespace segext
