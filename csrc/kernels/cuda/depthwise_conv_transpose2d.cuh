// Kernels of upsampling without mixing channels: every output element is written once, by one thread, and nothing is
// kept between.
//
//   depthwise_conv_transpose2d_cells_kernel   kernels that span at most two strides, such as every bilinear one
//   depthwise_conv_transpose2d_kernel         everything else: one element a thread, coalesced along the output
#pragma once

#include "upsampling.cuh"

namespace segext {

template <typename T>
struct ScoreArrays {
  const T* __restrict__ input;
  const T* __restrict__ weight;
  const T* __restrict__ bias;    // or null
  const T* __restrict__ addend;  // or null; from its origin on
  T* __restrict__ output;
};

// An addend's memory order: elements from one row to the next, and from one plane (of a sample, in channels_last) to
// the next.
struct AddendSteps {
  int64_t row, plane;
};

// kLanes elements in a row, read or written at once.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T)) Lanes {
  T lane[kCount];
};

// A row of input as a thread's lanes see it: each at its own column and at the one left of it.
template <typename Wide, int kLanes>
struct InputRow {
  Wide own[kLanes], left[kLanes];
  bool exists;
};

// What stays the same from cell to cell for a thread's lanes, but for where the next row of input lies.
template <typename T, int kLanes, bool kChannelsLast>
struct CellLanes {
  using Wide = typename Element<T>::Wide;
  static constexpr uint32_t kAllPresent = (1u << 2 * kLanes) - 1;

  // Weights, by phase and by input row: the cell's, the one above.
  Wide own[kPhases][2][kLanes], left[kPhases][2][kLanes];
  Wide bias[kLanes];
  const T* next[kLanes];  // own column of the row of input that is read next
  uint32_t present;       // bits 2 * lane and 2 * lane + 1: whether the own and the left column exist, and are a tap's

  // `weight_at(channel, phase, above, j)`: the weight of a kernel column.
  template <typename WeightAt>
  __device__ __forceinline__ CellLanes(const T* __restrict__ input, const T* __restrict__ channel_bias,
                                       const UpsamplingShape<int32_t>& shape, const Cells::Thread& at,
                                       const TapRows& rows, const WeightAt& weight_at)
      : present(0) {
    int32_t channel, phase;
    int32_t column = at.run * kLanes;
    if (kChannelsLast) {
      column = shape.by_channels.divide(column, &channel);
      input += at.plane * static_cast<int64_t>(shape.input.elements);
    } else {
      shape.by_channels.divide(at.plane, &channel);
      input += shape.by_multiplier.quotient(at.plane) * static_cast<int64_t>(shape.input.channel_stride);
    }
    input += (at.cell - 1) * static_cast<int64_t>(shape.input.row_stride);
    int32_t w = shape.columns.by_stride.divide(column + shape.columns.padding, &phase);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      next[lane] = input + w * static_cast<int64_t>(shape.input.column_stride) +
                   (kChannelsLast ? shape.by_multiplier.quotient(channel) : 0);
      bias[lane] = channel_bias == nullptr ? Wide{0} : Element<T>::widen(channel_bias[channel]);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int32_t j = shape.columns.tap_at(phase + k * shape.columns.stride);
        const bool exists = j >= 0 && w >= k && w - k < shape.columns.pooled_size;
        present |= static_cast<uint32_t>(exists) << (2 * lane + k);
#pragma unroll
        for (int p = 0; p < kPhases; ++p) {
#pragma unroll
          for (int above = 0; above < 2; ++above) {
            Wide weight{0};
            if (exists && rows.tap[p][above] >= 0) weight = weight_at(channel, p, above, j);
            (k == 0 ? own : left)[p][above][lane] = weight;
          }
        }
      }
      if (!kChannelsLast || ++channel == shape.channels) {
        channel = kChannelsLast ? 0 : channel;
        if (++phase == shape.columns.stride) {
          phase = 0;
          ++w;
        }
      }
    }
  }

  // Reads row h, the next one. Columns that do not exist are zero, and so are their weights.
  __device__ __forceinline__ InputRow<Wide, kLanes> read(const UpsamplingShape<int32_t>& shape, int32_t h) {
    const int32_t back = kChannelsLast ? shape.input.column_stride : 1;
    InputRow<Wide, kLanes> row;
    row.exists = h >= 0 && h < shape.rows.pooled_size;
    if (row.exists && present == kAllPresent) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        row.own[lane] = Element<T>::widen(*next[lane]);
        row.left[lane] = Element<T>::widen(*(next[lane] - back));
      }
    } else {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t exist = row.exists ? present >> 2 * lane : 0;
        row.own[lane] = (exist & 1) != 0 ? Element<T>::widen(*next[lane]) : Wide{0};
        row.left[lane] = (exist & 2) != 0 ? Element<T>::widen(*(next[lane] - back)) : Wide{0};
      }
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) next[lane] += shape.input.row_stride;
    return row;
  }

  // Adds the products of phase p with an input row.
  __device__ __forceinline__ void add_products(int p, int above, const InputRow<Wide, kLanes>& row,
                                               Wide (&sum)[kLanes]) const {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] = multiply_add(row.left[lane], left[p][above][lane], sum[lane]);
      sum[lane] = multiply_add(row.own[lane], own[p][above][lane], sum[lane]);
    }
  }
};

// A thread writes kLanes neighbouring elements of both rows of kPhases = 2 neighbouring phases, in some cells one below
// the other:
//
//     input rows      h - 1   . a b .        output    A A A A     row h * s + phase         one store
//                     h       . c d .                  A A A A     row h * s + phase + 1     one store
//                                                      ...         the other phases: other threads
//                     h + 1   . e f .                  B B B B     row (h + 1) * s + phase
//                                                      B B B B
//
// Its weights, four for each lane of a phase, are in registers before the first cell; a cell costs it the values of one
// new row of input, two for each lane, which neighbours share through the L1 cache. With 4 lanes a store has 16 bytes
// (float32) or 8: eight lanes of a half type would need twice the registers, and 32 threads in line write whole sectors
// either way.
//
// In channels_last a row's elements are all channels of all its columns, and lanes may belong to two columns.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_conv_transpose2d_cells_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                            Staging staging, AddendSteps addend_steps, bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  const auto at = cells.thread();
  const WeightsInMemory<T, int32_t> in_memory{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  WeightsInShared<Wide> in_shared{};
  const bool staged = kChannelsLast && staging.rows > 0;
  if (staged) {
    in_shared = staging.stage<T>(in_memory, [&](int32_t r) { return tap_row(shape.rows, at.phase + r / 2, r % 2); });
  }
  if (!at.present) return;

  const TapRows rows(shape.rows, at.phase);
  CellLanes<T, kLanes, kChannelsLast> lanes(
      arrays.input, arrays.bias, shape, at, rows, [&](int32_t channel, int p, int above, int32_t j) {
        return staged ? in_shared.at(channel, 2 * p + above, j) : in_memory.at(channel, rows.tap[p][above], j);
      });
  int32_t y = at.cell * shape.rows.stride + at.phase - shape.rows.padding;
  const int64_t element = at.run * kLanes;
  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  T* output = arrays.output + (at.plane * plane + y * static_cast<int64_t>(shape.output.row_stride) + element);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + y * addend_steps.row + element;

  InputRow<Wide, kLanes> above = lanes.read(shape, at.cell - 1);
  const auto write_phase = [&](int p, const InputRow<Wide, kLanes>& own, bool sees_own, bool sees_above) {
    Wide sum[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] = lanes.bias[lane];
    if (sees_own) lanes.add_products(p, 0, own, sum);
    if (sees_above) lanes.add_products(p, 1, above, sum);
    if constexpr (kAdds) {
      const T* added = addend + p * addend_steps.row;
      Lanes<T, kLanes> terms;
      if (addend_in_lanes) {
        terms = load_vector<Lanes<T, kLanes>>(added);
      } else {
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) terms.lane[lane] = added[lane];
      }
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += Element<T>::widen(terms.lane[lane]);
    }
    Lanes<T, kLanes> result;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) result.lane[lane] = Element<T>::narrow(sum[lane]);
    store_vector(output + p * shape.output.row_stride, result);
  };

  const int32_t end = at.cell + cells.per_thread < cells.end ? at.cell + cells.per_thread : cells.end;
#pragma unroll 2
  for (int32_t h = at.cell; h < end; ++h) {
    const InputRow<Wide, kLanes> own = lanes.read(shape, h);
    const bool whole = rows.complete && above.exists && own.exists;
#pragma unroll
    for (int p = 0; p < kPhases; ++p) {
      if (at.phase + p >= shape.rows.stride || !shape.rows.contains(y + p)) continue;
      if (whole) {
        write_phase(p, own, true, true);
      } else {
        write_phase(p, own, own.exists && rows.tap[p][0] >= 0, above.exists && rows.tap[p][1] >= 0);
      }
    }
    above = own;
    y += shape.rows.stride;
    output += static_cast<int64_t>(shape.rows.stride) * shape.output.row_stride;
    if (kAdds) addend += shape.rows.stride * addend_steps.row;
  }
}

// A thread writes one element, after looking up which input pixels reach it. In channels_last, a block stages the
// whole kernel where it fits.
template <typename T, typename Index, bool kStaged>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_conv_transpose2d_kernel(ScoreArrays<T> arrays, UpsamplingShape<Index> shape, WarpRuns<Index> runs,
                                      Staging staging, AddendSteps addend_steps) {
  using Wide = typename Element<T>::Wide;
  const WeightsInMemory<T, Index> in_memory{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  const auto weights = [&] {
    if constexpr (kStaged) {
      return staging.stage<T>(in_memory, [](int32_t row) { return row; });
    } else {
      return in_memory;
    }
  }();
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> at = shape.output.place(lane.element);
  const T* input = arrays.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
  const Wide bias = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[at.channel]);
  Wide sum = sum_of_taps(shape, input, weights, at, bias);
  if (arrays.addend != nullptr) {
    const bool last = shape.output.channels_last;
    const int64_t plane = last ? lane.sample : static_cast<int64_t>(lane.sample) * shape.channels + at.channel;
    const int64_t in_row = last ? static_cast<int64_t>(at.column) * shape.channels + at.channel : at.column;
    sum += Element<T>::widen(arrays.addend[plane * addend_steps.plane + at.row * addend_steps.row + in_row]);
  }
  arrays.output[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = Element<T>::narrow(sum);
}

}  // namespace segext
