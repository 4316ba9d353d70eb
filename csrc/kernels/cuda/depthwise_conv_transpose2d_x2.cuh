// Upsampling by two with 4x4 kernels and no dilation, as in every bilinear x2 upsampling: each output pixel sees 2x2
// pixels of input.
//
//   depthwise_conv_transpose2d_x2_kernel
//
// With so few phases, a thread holds the whole convolution kernel of its channel in registers and has all phases of its
// cells. Beyond that, it only loads each input pixel that it sees once, no matter how many of its own pixels see it.
#pragma once

#include "depthwise_conv_transpose2d.cuh"

namespace segext {

// What a thread writes in each row of the output, with kStores stores of kLanes elements. In NCHW, these are kLanes
// neighbouring columns; in channels_last, both columns of a cell, for kLanes neighbouring channels. The thread's
// columns see kInputs columns of input.
template <int kLanesOfStore, bool kChannelsLast>
struct DoubledRun {
  static constexpr int kLanes = kLanesOfStore;
  static constexpr int kStores = kChannelsLast ? 2 : 1;
  static constexpr int kColumns = kChannelsLast ? 2 : kLanes;
  static constexpr int kChannels = kChannelsLast ? kLanes : 1;
  // In NCHW, a run may start in the second column of a cell; it then reaches into one more cell.
  static constexpr int kInputs = kChannelsLast ? 2 : kColumns / 2 + 2;

  // The number of runs in a row of a plane: a row of the output (NCHW) or of cells (channels_last).
  static int64_t count(const Upsampling& g) {
    if (!kChannelsLast) return g.output_width / kLanes;
    const int64_t first = g.origin_w / 2, end = (g.origin_w + g.output_width - 1) / 2 + 1;
    return (end - first) * g.channels / kLanes;
  }

  int32_t channel;       // the run's first channel
  int32_t input_column;  // the first input column that the run sees, which need not exist
  int32_t x;             // the run's first output column, which need not exist in channels_last
  bool odd;              // whether x is the second column of its cell

  __device__ __forceinline__ DoubledRun(const UpsamplingShape<int32_t>& shape, const Cells::Thread& at) {
    int32_t in_cell = 0;
    if (kChannelsLast) {
      const int32_t cell = shape.by_channels.divide(at.run * kLanes, &channel);
      x = 2 * cell - (shape.columns.padding & 1);
    } else {
      shape.by_channels.divide(at.plane, &channel);
      x = at.run * kLanes;
      in_cell = (x + shape.columns.padding) & 1;
    }
    odd = in_cell != 0;
    input_column = (x + shape.columns.padding) / 2 - 1;
  }

  // What the `column`-th output column sees in channel k. `values` has the run's input columns; `left` selects the
  // column of the output column's own cell (0) or the one to the left of it (1).
  template <typename Values>
  __device__ __forceinline__ auto seen(const Values& values, int column, int left, int k) const {
    const auto even_value = values[column / 2 + 1 - left][k];
    return kChannelsLast || column % 2 == 0 || !odd ? even_value : values[(column + 1) / 2 + 1 - left][k];
  }
};

// The convolution kernel of a channel: by kernel row, by the parity of a column's number in the run, and by the input
// column that it sees, its own (0) or the one to the left (1).
template <typename Wide>
struct DoubledWeights {
  Wide tap[4][2][2];

  // `weight`, [channels, 4, 4], is aligned for vector accesses. `odd`: whether the thread's first column has phase 1.
  template <typename T>
  __device__ __forceinline__ static DoubledWeights load(const T* __restrict__ weight, int32_t channel, bool odd) {
    constexpr int kLanes = Vector<T>::kLanes;
    Wide kernel[4][4];
#pragma unroll
    for (int v = 0; v < 16 / kLanes; ++v) {
      const auto vector = load_vector<Vector<T>>(weight + 16 * channel + v * kLanes);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const int tap = v * kLanes + lane;
        kernel[tap / 4][tap % 4] = widen_lane(vector, lane);
      }
    }
    DoubledWeights result;
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const int row = k / 4, parity = k / 2 % 2, left = k % 2;
      result.tap[row][parity][left] = odd ? kernel[row][1 - parity + 2 * left] : kernel[row][parity + 2 * left];
    }
    return result;
  }
};

template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_conv_transpose2d_x2_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                         AddendSteps addend_steps, bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  using Run = DoubledRun<kLanes, kChannelsLast>;
  using Store = Lanes<T, kLanes>;
  constexpr int kTogether = 2;  // cells whose input and addends are in flight at once
  constexpr int kChannels = Run::kChannels;
  const auto at = cells.thread();
  if (!at.present) return;
  const Run run(shape, at);

  DoubledWeights<Wide> weights[kChannels];
  Wide bias[kChannels];
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    weights[k] = DoubledWeights<Wide>::load(arrays.weight, run.channel + k, run.odd);
    bias[k] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[run.channel + k]);
  }

  const int32_t in_step = kChannelsLast ? shape.input.column_stride : 1;
  const T* next = arrays.input + (at.cell - 1) * static_cast<int64_t>(shape.input.row_stride) +
                  run.input_column * static_cast<int64_t>(in_step);
  if (kChannelsLast) {
    next += at.plane * static_cast<int64_t>(shape.input.elements) + shape.by_multiplier.quotient(run.channel);
  } else {
    next += shape.by_multiplier.quotient(at.plane) * static_cast<int64_t>(shape.input.channel_stride);
  }
  bool has_input[Run::kInputs];
#pragma unroll
  for (int i = 0; i < Run::kInputs; ++i) {
    has_input[i] = run.input_column + i >= 0 && run.input_column + i < shape.columns.pooled_size;
  }
  Wide row[kTogether + 1][Run::kInputs][kChannels];  // of input: the one above the next cell, then the next cells'
  const auto read = [&](int32_t h, Wide(&values)[Run::kInputs][kChannels]) {
    const bool exists = h >= 0 && h < shape.rows.pooled_size;
#pragma unroll
    for (int i = 0; i < Run::kInputs; ++i) {
      Lanes<T, kChannels> lanes{};
      if (exists && has_input[i]) lanes = load_vector<Lanes<T, kChannels>>(next + i * in_step);
#pragma unroll
      for (int k = 0; k < kChannels; ++k) values[i][k] = Element<T>::widen(lanes.lane[k]);
    }
    next += shape.input.row_stride;
  };

  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  const int64_t row_step = shape.output.row_stride;
  const int32_t out_step = kChannelsLast ? shape.output.column_stride : kLanes;  // from a store to the next
  const int32_t in_row = run.x * (kChannelsLast ? out_step : 1) + (kChannelsLast ? run.channel : 0);
  int32_t y = 2 * at.cell - shape.rows.padding;
  T* output = arrays.output + (at.plane * plane + y * row_step + in_row);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + y * addend_steps.row + in_row;
  bool has_store[Run::kStores];
#pragma unroll
  for (int s = 0; s < Run::kStores; ++s) has_store[s] = !kChannelsLast || shape.columns.contains(run.x + s);
  const auto load_added = [&](const T* from) {
    if (addend_in_lanes) return load_vector<Store>(from);
    Store added;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) added.lane[lane] = from[lane];
    return added;
  };

  read(at.cell - 1, row[0]);
  const int32_t end = cells.end_of(at);
  const int32_t thread_rows = 2 * end - shape.rows.padding;  // the row after the thread's last
  const uint32_t end_row = static_cast<uint32_t>(thread_rows < shape.rows.size ? thread_rows : shape.rows.size);
  const auto has_row = [&](int32_t row) { return static_cast<uint32_t>(row) < end_row; };
#pragma unroll 1
  for (int32_t h = at.cell; h < end; h += kTogether, y += 2 * kTogether) {
#pragma unroll
    for (int cell = 0; cell < kTogether; ++cell) read(h + cell, row[cell + 1]);
    Store added[kTogether][2][Run::kStores] = {};
    if constexpr (kAdds) {
#pragma unroll
      for (int k = 0; k < 2 * kTogether; ++k, addend += addend_steps.row) {
#pragma unroll
        for (int s = 0; s < Run::kStores; ++s) {
          if (has_row(y + k) && has_store[s]) added[k / 2][k % 2][s] = load_added(addend + s * out_step);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < 2 * kTogether; ++k, output += row_step) {
      const int cell = k / 2, phase = k % 2;
      Store result[Run::kStores];
#pragma unroll
      for (int c = 0; c < Run::kColumns * kChannels; ++c) {
        const int column = c / kChannels, channel = c % kChannels, s = kChannelsLast ? column : 0;
        const int lane = kChannelsLast ? channel : column;
        Wide sum = bias[channel];
#pragma unroll
        for (int above = 0; above < 2; ++above) {
          const auto& taps = weights[channel].tap[phase + 2 * above][column % 2];
          const auto& values = row[cell + 1 - above];
          sum = multiply_add(run.seen(values, column, 1, channel), taps[1], sum);
          sum = multiply_add(run.seen(values, column, 0, channel), taps[0], sum);
        }
        if (kAdds) sum += Element<T>::widen(added[cell][phase][s].lane[lane]);
        result[s].lane[lane] = Element<T>::narrow(sum);
      }
#pragma unroll
      for (int s = 0; s < Run::kStores; ++s) {
        if (has_row(y + k) && has_store[s]) store_vector(output + s * out_step, result[s]);
      }
    }
#pragma unroll
    for (int i = 0; i < Run::kInputs; ++i) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) row[0][i][k] = row[kTogether][i][k];
    }
  }
}

}  // namespace segext
