// Upsampling by two with 4x4 kernels and no dilation, as in every bilinear x2 upsampling: each output pixel sees 2x2
// pixels of input.
//
//   depthwise_conv_transpose2d_x2_kernel
//
// With so few phases, a thread holds the weights of its elements in registers and has all phases of its cells. Little
// is computed for each byte, so the time goes into waiting for memory: a thread loads the input and the addends of
// several cells before it computes any of them, and in some forms the input of the next ones too.
#pragma once

#include "depthwise_conv_transpose2d.cuh"

namespace segext {

// What a thread writes in each row of the output: kLanes neighbouring elements, with one store. Neighbouring threads
// store next to each other, so that a warp writes whole sectors.
//
// In NCHW, these are neighbouring columns of one channel. They see kInputs neighbouring columns of input, some of them
// more than once, and their weights repeat from one cell to the next. In channels_last, each lane has its own channel
// and column, and two columns of input that no other lane sees.
template <typename T, int kLanesOfStore, bool kChannelsLast>
class DoubledRun {
  using Wide = WideOf<T>;

 public:
  static constexpr int kLanes = kLanesOfStore;
  // In NCHW, a run may start in the second column of a cell; it then reaches into one more cell.
  static constexpr int kInputs = kChannelsLast ? 2 * kLanes : kLanes / 2 + 2;
  static_assert(kLanes <= (kChannelsLast ? 2 : 4), "the weights are held for two columns");

  // Elements of one row of input: in NCHW by column, in channels_last by lane, own column (0) and the one to the left.
  using Inputs = T[kInputs];
  using Values = Wide[kInputs];

  __device__ __forceinline__ DoubledRun(const UpsamplingArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                        const Cells::Thread& at) {
    const int64_t input_plane = kChannelsLast ? at.plane : shape.by_multiplier.quotient(at.plane);
    input_ = arrays.input + input_plane * (kChannelsLast ? shape.input.elements : shape.input.channel_stride);
    row_step_ = shape.input.row_stride;
    const auto exists = [&](int32_t column) { return column >= 0 && column < shape.columns.windows; };
    const int32_t element = at.run * kLanes;
    if constexpr (kChannelsLast) {
      int32_t channel, x = shape.by_channels.divide(element, &channel);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const int32_t in_rows = x + shape.columns.origin, own = in_rows / 2;
        set_lane(arrays, lane, channel, [&](int left) { return (in_rows & 1) + 2 * left; });
#pragma unroll
        for (int left = 0; left < 2; ++left) {
          const int i = 2 * lane + left;
          exists_[i] = exists(own - left);
          const int32_t column = exists_[i] ? own - left : 0;
          offset_[i] = column * shape.input.column_stride + shape.by_multiplier.quotient(channel);
        }
        if (++channel == shape.channels) {
          channel = 0;
          ++x;
        }
      }
    } else {
      int32_t channel;
      shape.by_channels.divide(at.plane, &channel);
      odd_ = ((element + shape.columns.origin) & 1) != 0;
      const int32_t first = (element + shape.columns.origin) / 2 - 1;
#pragma unroll
      for (int parity = 0; parity < 2; ++parity) {
        set_lane(arrays, parity, channel, [&](int left) { return (odd_ ? 1 - parity : parity) + 2 * left; });
      }
#pragma unroll
      for (int i = 0; i < kInputs; ++i) exists_[i] = exists(first + i);
      input_ += first;
    }
  }

  // Loads row h of the input, which exists. Where a column does not exist, the element is zero.
  __device__ __forceinline__ void load(int32_t h, Inputs& inputs) const {
    const T* row = ptx::keep(input_ + h * static_cast<int64_t>(row_step_));
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      inputs[i] = T{};
      if (exists_[i]) inputs[i] = row[kChannelsLast ? offset_[i] : i];
    }
  }

  // The bias of a lane plus what it sees of one row of input, through row `tap` of the convolution kernel.
  __device__ __forceinline__ Wide bias(int lane) const { return bias_[lane % 2]; }
  __device__ __forceinline__ Wide add_products(const Values& values, int tap, int lane, Wide sum) const {
    sum = multiply_add(seen(values, lane, 1), weight_[tap][lane % 2][1], sum);
    return multiply_add(seen(values, lane, 0), weight_[tap][lane % 2][0], sum);
  }

 private:
  // Sets bias and weights of lane `number` (channels_last) or of all lanes of that parity (NCHW). tap_column(left) is
  // the column of the convolution kernel through which they see the input of their own cell (0) or of the one to the
  // left (1).
  template <typename TapColumn>
  __device__ __forceinline__ void set_lane(const UpsamplingArrays<T>& arrays, int number, int32_t channel,
                                           const TapColumn& tap_column) {
    const T* kernel = arrays.weight + 16 * channel;
    bias_[number] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[channel]);
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        weight_[tap][number][left] = Element<T>::widen(kernel[4 * tap + tap_column(left)]);
      }
    }
  }

  __device__ __forceinline__ Wide seen(const Values& values, int lane, int left) const {
    if constexpr (kChannelsLast) return values[2 * lane + left];
    const Wide even = values[lane / 2 + 1 - left];
    return lane % 2 == 0 || !odd_ ? even : values[(lane + 1) / 2 + 1 - left];
  }

  const T* input_;  // the first row of the thread's plane; in NCHW, the run's first input column of it
  int32_t row_step_;
  int32_t offset_[kChannelsLast ? kInputs : 1];  // in channels_last, of the inputs in a row
  bool exists_[kInputs];
  bool odd_ = false;  // in NCHW: whether the first lane is the second column of its cell
  Wide bias_[2], weight_[4][2][2];
};

// How the kernel uses its registers.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
struct DoubledPlan {
  static constexpr bool kHalf = sizeof(T) == 2;
  // Whether the input of the next cells is loaded before these are computed. float32 in NCHW is limited by its stores;
  // with an addend, threads wait for the addend in any case.
  static constexpr bool kAhead = !kAdds && (kChannelsLast || kHalf);
  // The number of cells whose input and addends are in flight at once.
  static constexpr int kTogether = (kAdds ? kLanes * sizeof(T) >= 16 : kHalf && kLanes == 4) ? 2 : 4;
  // The number of blocks per multiprocessor that the registers of all this leave room for.
  static constexpr bool kTwoBlocks = kAdds && (kChannelsLast ? kLanes == 2 : kHalf && kLanes == 4);
  static constexpr int kBlocks = kTwoBlocks ? 2 : kAdds || (kChannelsLast && kLanes == 2) ? 3 : 4;
};

template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, DoubledPlan<T, kLanes, kChannelsLast, kAdds>::kBlocks)
    depthwise_conv_transpose2d_x2_kernel(UpsamplingArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                         AddendSteps addend_steps, bool addend_in_lanes) {
  using Wide = WideOf<T>;
  using Run = DoubledRun<T, kLanes, kChannelsLast>;
  using Store = Lanes<T, kLanes>;
  using Plan = DoubledPlan<T, kLanes, kChannelsLast, kAdds>;
  constexpr int kTogether = Plan::kTogether;
  const auto at = cells.thread();
  if (!at.present) return;
  const Run run(arrays, shape, at);

  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  const int64_t row_step = shape.output.row_stride;
  int32_t y = 2 * at.cell - shape.rows.origin;
  T* output = arrays.output + (at.plane * plane + y * row_step + at.run * kLanes);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + y * addend_steps.row + at.run * kLanes;
  const int32_t end = cells.end_of(at);
  const int32_t input_end = end < shape.rows.windows ? end : shape.rows.windows;
  const int32_t thread_rows = 2 * end - shape.rows.origin;  // the row after the thread's last
  const uint32_t end_row = static_cast<uint32_t>(thread_rows < shape.rows.pixels ? thread_rows : shape.rows.pixels);
  const auto has_row = [&](int32_t row) { return static_cast<uint32_t>(row) < end_row; };
  const auto widen = [](const typename Run::Inputs& inputs, bool row_exists, typename Run::Values& values) {
#pragma unroll
    for (int i = 0; i < Run::kInputs; ++i) values[i] = row_exists ? Element<T>::widen(inputs[i]) : Wide{0};
  };

  typename Run::Values row[kTogether + 1];  // of input: the one above the cells, then the cells'
  {
    typename Run::Inputs above;
    const bool exists = at.cell >= 1 && at.cell <= shape.rows.windows;
    run.load(exists ? at.cell - 1 : 0, above);
    widen(above, exists, row[0]);
  }
  typename Run::Inputs inputs[kTogether];
  const auto load_inputs = [&](int32_t h) {
#pragma unroll
    for (int cell = 0; cell < kTogether; ++cell) run.load(h + cell < input_end ? h + cell : 0, inputs[cell]);
  };
  if (Plan::kAhead) load_inputs(at.cell);
#pragma unroll 1
  for (int32_t h = at.cell; h < end; h += kTogether, y += 2 * kTogether) {
    if (!Plan::kAhead) load_inputs(h);
    Store added[2 * kTogether] = {};
    if constexpr (kAdds) {
#pragma unroll
      for (int k = 0; k < 2 * kTogether; ++k, addend += addend_steps.row) {
        if (!has_row(y + k)) continue;
        if (addend_in_lanes) {
          added[k] = load_vector<Store>(addend);
        } else {
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) added[k].lane[lane] = addend[lane];
        }
      }
    }
#pragma unroll
    for (int cell = 0; cell < kTogether; ++cell) widen(inputs[cell], h + cell < input_end, row[cell + 1]);
    if (Plan::kAhead && h + kTogether < end) load_inputs(h + kTogether);
#pragma unroll
    for (int k = 0; k < 2 * kTogether; ++k, output += row_step) {
      const int cell = k / 2, phase = k % 2;
      Store result;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        Wide sum = run.add_products(row[cell + 1], phase, lane, run.bias(lane));
        sum = run.add_products(row[cell], phase + 2, lane, sum);
        if (kAdds) sum += Element<T>::widen(added[k].lane[lane]);
        result.lane[lane] = Element<T>::narrow(sum);
      }
      if (has_row(y + k)) store_vector(output, result);
    }
#pragma unroll
    for (int i = 0; i < Run::kInputs; ++i) row[0][i] = row[kTogether][i];
  }
}

}  // namespace segext
