// Upsampling by two with 4x4 kernels and no dilation, as in every bilinear x2 upsampling: each output pixel sees 2x2
// pixels of input.
//
//   depthwise_conv_transpose2d_x2_kernel
//
// With so few phases, a thread holds the weights of its elements in registers and has all phases of its cells. Little
// is computed for each byte, so what counts is the number of instructions besides the products, and the loads that are
// in flight: groups of cells of which everything exists take a path that does not test for it, and as soon as a row of
// input is no longer needed, its registers receive the next one to load. The last rows that a thread loads are those
// that the thread below it begins with.
#pragma once

#include <type_traits>

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
  using Wide = typename Element<T>::Wide;

 public:
  static constexpr int kLanes = kLanesOfStore;
  // In NCHW, a run may start in the second column of a cell; it then reaches into one more cell.
  static constexpr int kInputs = kChannelsLast ? 2 * kLanes : kLanes / 2 + 2;
  static_assert(kLanes <= (kChannelsLast ? 2 : 4), "the weights are held for two columns");

  // Elements of one row of input: in NCHW by column, in channels_last by lane, own column (0) and the one to the left.
  using Inputs = T[kInputs];
  using Values = Wide[kInputs];

  __device__ __forceinline__ DoubledRun(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                        const Cells::Thread& at) {
    const int64_t input_plane = kChannelsLast ? at.plane : shape.by_multiplier.quotient(at.plane);
    input_ = arrays.input + input_plane * (kChannelsLast ? shape.input.elements : shape.input.channel_stride);
    row_step_ = shape.input.row_stride;
    column_step_ = shape.input.column_stride;
    const auto exists = [&](int32_t column) { return column >= 0 && column < shape.columns.pooled_size; };
    const int32_t first_element = at.run * kLanes;
    if constexpr (kChannelsLast) {
      int32_t channel, x = shape.by_channels.divide(first_element, &channel);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const int32_t in_rows = x + shape.columns.padding, own = in_rows / 2;
        set_lane(arrays, lane, channel, (in_rows & 1) != 0);
        exists_[2 * lane] = exists(own);
        exists_[2 * lane + 1] = exists(own - 1);
        const int32_t column = own <= shape.columns.pooled_size ? own : 0;  // far columns could exceed int32_t
        const int32_t element = column * shape.input.column_stride + shape.by_multiplier.quotient(channel);
        offset_[lane] = static_cast<uint32_t>(element) * sizeof(T);
        if (++channel == shape.channels) {
          channel = 0;
          ++x;
        }
      }
    } else {
      int32_t channel;
      shape.by_channels.divide(at.plane, &channel);
      odd_ = ((first_element + shape.columns.padding) & 1) != 0;
      const int32_t first = (first_element + shape.columns.padding) / 2 - 1;
#pragma unroll
      for (int parity = 0; parity < 2; ++parity) {
        set_lane(arrays, parity, channel, odd_ != (parity == 1));
      }
#pragma unroll
      for (int i = 0; i < kInputs; ++i) exists_[i] = exists(first + i);
      input_ += first;
    }
  }

  // The address of row h of the input, for load().
  __device__ __forceinline__ const T* row(int32_t h) const { return input_ + h * static_cast<int64_t>(row_step_); }

  // Whether load<true> may be used: if all columns exist. In NCHW always, for there it tests each column itself.
  __device__ __forceinline__ bool all_columns() const {
    bool all = true;
    if constexpr (kChannelsLast) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) all = all && exists_[i];
    }
    return all;
  }

  // Loads a row. Leaves the elements of columns that do not exist as they are. kAllColumns requires all_columns().
  template <bool kAllColumns>
  __device__ __forceinline__ void load(const T* row, Inputs& inputs) const {
    row = ptx::keep(row);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if constexpr (kChannelsLast) {
        const T* own = at_bytes(row, offset_[i / 2]);
        if (kAllColumns || exists_[i]) inputs[i] = i % 2 == 0 ? *own : *(own - column_step_);
      } else {
        if (exists_[i]) inputs[i] = row[i];
      }
    }
  }

  // The bias of a lane plus what it sees of one row of input, through row `tap` of the convolution kernel.
  __device__ __forceinline__ Wide bias(int lane) const { return bias_[lane % 2]; }
  __device__ __forceinline__ Wide add_products(const Values& values, int tap, int lane, Wide sum) const {
    sum = multiply_add(seen(values, lane, 1), weight_[tap][lane % 2][1], sum);
    return multiply_add(seen(values, lane, 0), weight_[tap][lane % 2][0], sum);
  }

 private:
  // Sets bias and weights of lane `number` (channels_last) or of all lanes of that parity (NCHW), which are in the
  // first or in the second column of their cells. The weights are aligned for vectors of kVectorBytes.
  __device__ __forceinline__ void set_lane(const ScoreArrays<T>& arrays, int number, int32_t channel, bool second) {
    constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));
    T kernel[16];
#pragma unroll
    for (int k = 0; k < 16; k += kVector) {
      const auto vector = load_vector<Lanes<T, kVector>>(arrays.weight + 16 * channel + k);
#pragma unroll
      for (int lane = 0; lane < kVector; ++lane) kernel[k + lane] = vector.lane[lane];
    }
    bias_[number] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[channel]);
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        const T even = kernel[4 * tap + 2 * left], odd = kernel[4 * tap + 2 * left + 1];
        weight_[tap][number][left] = Element<T>::widen(second ? odd : even);
      }
    }
  }

  __device__ __forceinline__ Wide seen(const Values& values, int lane, int left) const {
    if constexpr (kChannelsLast) return values[2 * lane + left];
    const Wide even = values[lane / 2 + 1 - left];
    return lane % 2 == 0 || !odd_ ? even : values[(lane + 1) / 2 + 1 - left];
  }

  const T* input_;  // the first row of the thread's plane; in NCHW, the run's first input column of it
  int32_t row_step_, column_step_;
  uint32_t offset_[kChannelsLast ? kLanes : 1];  // in channels_last, of the lanes' own columns in a row, in bytes
  bool exists_[kInputs];
  bool odd_ = false;  // in NCHW: whether the first lane is the second column of its cell
  Wide bias_[2], weight_[4][2][2];
};

// How the kernel uses its registers.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
struct DoubledPlan {
  static constexpr bool kHalf = sizeof(T) == 2;
  // The number of cells that are written together. The rows of input in flight are one fewer, the addends all theirs.
  static constexpr int kTogether = kAdds && kLanes * sizeof(T) >= 16 ? 2 : 4;
  // The number of blocks per multiprocessor that the registers of all this leave room for.
  static constexpr bool kFillsRegisters = kChannelsLast ? kLanes == 2 : kHalf && kLanes == 4;
  static constexpr int kBlocks = 4 - static_cast<int>(kFillsRegisters) - static_cast<int>(kAdds);
};

template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, DoubledPlan<T, kLanes, kChannelsLast, kAdds>::kBlocks)
    depthwise_conv_transpose2d_x2_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                         AddendSteps addend_steps, bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  using Run = DoubledRun<T, kLanes, kChannelsLast>;
  using Store = Lanes<T, kLanes>;
  using Plan = DoubledPlan<T, kLanes, kChannelsLast, kAdds>;
  constexpr int kTogether = Plan::kTogether;
  const auto at = cells.thread();
  if (!at.present) return;
  const Run run(arrays, shape, at);

  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  const int64_t row_step = shape.input.row_stride, output_step = shape.output.row_stride;
  const auto first_row = [&](int32_t cell) { return 2 * cell - shape.rows.padding; };
  T* output = arrays.output + (at.plane * plane + first_row(at.cell) * output_step + at.run * kLanes);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + first_row(at.cell) * addend_steps.row + at.run * kLanes;
  const int32_t end = cells.end_of(at);
  const int32_t end_row = first_row(end) < shape.rows.size ? first_row(end) : shape.rows.size;  // after the last
  const auto widen = [](const typename Run::Inputs& inputs, typename Run::Values& values) {
#pragma unroll
    for (int i = 0; i < Run::kInputs; ++i) values[i] = Element<T>::widen(inputs[i]);
  };

  // What the first cell sees of the row above it, and the elements of the rows of the next kTogether - 1 cells.
  typename Run::Values above;
  typename Run::Inputs inputs[kTogether] = {};
  const T* next = run.row(at.cell - 1);  // the row of input to load
  const auto load_next = [&](int32_t h, typename Run::Inputs& to) {
    if (h >= 0 && h < shape.rows.pooled_size) {
      run.template load<false>(next, to);
    } else {
#pragma unroll
      for (T& element : to) element = T{};
    }
    next += row_step;
  };
  load_next(at.cell - 1, inputs[0]);
  widen(inputs[0], above);
#pragma unroll
  for (int cell = 0; cell + 1 < kTogether; ++cell) load_next(at.cell + cell, inputs[cell]);

  // Writes kTogether cells from h on, those of them that are the thread's. Loads the row of the last of them, and all
  // but the last of the next kTogether. With `all_exist`, a std::bool_constant, all these rows of input and output
  // exist, and all_columns() holds.
  const auto write_cells = [&](int32_t h, auto all_exist) {
    constexpr bool kAll = decltype(all_exist)::value;
    const auto exists = [&](int k) { return kAll || (first_row(h) + k >= 0 && first_row(h) + k < end_row); };
    Store added[2 * kTogether] = {};
    if constexpr (kAdds) {
#pragma unroll
      for (int k = 0; k < 2 * kTogether; ++k, addend += addend_steps.row) {
        if (!exists(k)) continue;
        if (addend_in_lanes) {
          added[k] = load_vector<Store>(addend);
        } else {
#pragma unroll
          for (int lane = 0; lane < kLanes; ++lane) added[k].lane[lane] = addend[lane];
        }
      }
    }
#pragma unroll
    for (int cell = 0; cell < kTogether; ++cell) {
      typename Run::Values own;
      widen(inputs[cell], own);
#pragma unroll
      for (int phase = 0; phase < 2; ++phase, output += output_step) {
        const int k = 2 * cell + phase;
        Store result;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) {
          Wide sum = run.add_products(own, phase, lane, run.bias(lane));
          sum = run.add_products(above, phase + 2, lane, sum);
          if (kAdds) sum += Element<T>::widen(added[k].lane[lane]);
          result.lane[lane] = Element<T>::narrow(sum);
        }
        if (exists(k)) store_vector(output, result);
      }
      typename Run::Inputs& free = inputs[(cell + kTogether - 1) % kTogether];
      if (kAll) {
        run.template load<true>(next, free);
        next += row_step;
      } else {
        load_next(h + cell + kTogether - 1, free);
      }
#pragma unroll
      for (int i = 0; i < Run::kInputs; ++i) above[i] = own[i];
    }
  };
  const bool all_columns = run.all_columns();
#pragma unroll 1
  for (int32_t h = at.cell; h < end; h += kTogether) {
    const bool all_rows = first_row(h) >= 0 && first_row(h + kTogether) <= end_row;
    if (all_rows && all_columns && h + 2 * kTogether - 2 < shape.rows.pooled_size) {
      write_cells(h, std::true_type{});
    } else {
      write_cells(h, std::false_type{});
    }
  }
}

}  // namespace segext
