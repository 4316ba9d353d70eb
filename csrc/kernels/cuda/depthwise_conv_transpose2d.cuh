// Kernels of upsampling without mixing channels: every output element is written once, by one thread, and nothing is
// kept between.
//
//   depthwise_conv_transpose2d_cells_kernel   kernels that span at most two strides, such as every bilinear one
//   depthwise_conv_transpose2d_kernel         everything else: one element a thread, coalesced along the output
#pragma once

#include <numeric>

#include "upsampling.cuh"

namespace segext {

// Elements of a pixel that lie side by side.
inline int64_t depth_of(const Upsampling& g) { return g.channels_last ? g.channels : 1; }

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

// Runs of kLanes elements of the output's rows, and the weights of a unit's phases for them, which recur after some
// runs: in NCHW with a stride of 8, after two. Where a block has threads of one unit only, it can stage them once.
template <typename T, int kLanes, bool kChannelsLast>
struct LaneRuns {
  using Wide = typename Element<T>::Wide;
  // By phase and by input row: the cell's, the one above; by column: own, left.
  static constexpr int kWeights = kPhases * 2 * 2;
  Divisor<int32_t> by_classes;
  int32_t class_elements;  // of the runs after which weights recur
  bool staged;

  LaneRuns(const Upsampling& g, bool staged)
      : by_classes(elements(g) / kLanes), class_elements(static_cast<int32_t>(elements(g))), staged(staged) {}

  static int64_t elements(const Upsampling& g) { return std::lcm(g.stride_w * depth_of(g), int64_t{kLanes}); }

  static int64_t shared_bytes(const Upsampling& g) {
    return kWeights * elements(g) * static_cast<int64_t>(sizeof(Wide));
  }

  // The place of an element of a row of output.
  struct Column {
    int32_t w, phase, channel;

    __device__ __forceinline__ Column(const UpsamplingShape<int32_t>& shape, int32_t element, int32_t plane) {
      if (kChannelsLast) {
        element = shape.by_channels.divide(element, &channel);
      } else {
        shape.by_channels.divide(plane, &channel);
      }
      w = shape.columns.by_stride.divide(element + shape.columns.padding, &phase);
    }
  };

  // Calls take(k, weight) for a column's kWeights weights; they are zero where there is no tap.
  template <typename Take>
  __device__ __forceinline__ static void for_each_weight(const ScoreArrays<T>& arrays,
                                                         const UpsamplingShape<int32_t>& shape, const TapRows& rows,
                                                         const Column& column, const Take& take) {
    const WeightsInMemory<T, int32_t> weights{arrays.weight, shape.rows.kernel, shape.columns.kernel};
#pragma unroll
    for (int left = 0; left < 2; ++left) {
      const int32_t j = shape.columns.tap_at(column.phase + left * shape.columns.stride);
#pragma unroll
      for (int r = 0; r < kPhases * 2; ++r) {
        const int32_t i = rows.tap[r / 2][r % 2];
        take(2 * r + left, i >= 0 && j >= 0 ? weights.at(column.channel, i, j) : Wide{0});
      }
    }
  }

  // All threads of the block call.
  __device__ __forceinline__ void stage(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                        const TapRows& rows, int32_t plane) const {
    auto* table = dynamic_shared_memory<Wide>();  // [kWeights, class_elements]
    for (int32_t e = static_cast<int32_t>(threadIdx.x); e < class_elements; e += Launch::kBlockThreads) {
      for_each_weight(arrays, shape, rows, Column(shape, e, plane),
                      [&](int k, Wide weight) { table[k * class_elements + e] = weight; });
    }
    __syncthreads();
  }
};

// What stays the same from cell to cell for a thread's lanes, but for where the next row of input lies.
template <typename T, int kLanes, bool kChannelsLast>
class CellLanes {
  using Wide = typename Element<T>::Wide;
  using Runs = LaneRuns<T, kLanes, kChannelsLast>;
  using Row = InputRow<Wide, kLanes>;

 public:
  __device__ __forceinline__ CellLanes(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                       const Cells::Thread& at, const TapRows& rows, const Runs& runs)
      : back_(kChannelsLast ? shape.input.column_stride : 1), row_step_(shape.input.row_stride) {
    typename Runs::Column column(shape, at.run * kLanes, at.plane);
    next_ = arrays.input + (at.cell - 1) * static_cast<int64_t>(row_step_);
    next_ += kChannelsLast ? at.plane * static_cast<int64_t>(shape.input.elements)
                           : shape.by_multiplier.quotient(at.plane) * static_cast<int64_t>(shape.input.channel_stride);
    if (runs.staged) {
      int32_t run;
      runs.by_classes.divide(at.run, &run);
      const Wide* table = dynamic_shared_memory<Wide>() + run * kLanes;
#pragma unroll
      for (int k = 0; k < Runs::kWeights; ++k) {
        const auto lanes = load_vector<Lanes<Wide, kLanes>>(table + k * runs.class_elements);
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) weights_[k][lane] = lanes.lane[lane];
      }
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      offset_[lane] =
          column.w * shape.input.column_stride + (kChannelsLast ? shape.by_multiplier.quotient(column.channel) : 0);
      if (kChannelsLast || lane == 0) {
        bias_[lane] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[column.channel]);
      }
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        const bool tap = shape.columns.tap_at(column.phase + left * shape.columns.stride) >= 0;
        const bool exists = tap && column.w >= left && column.w - left < shape.columns.pooled_size;
        present_ |= static_cast<uint32_t>(exists) << (2 * lane + left);
      }
      if (!runs.staged) {
        Runs::for_each_weight(arrays, shape, rows, column, [&](int k, Wide weight) { weights_[k][lane] = weight; });
      }
      if (!kChannelsLast || ++column.channel == shape.channels) {
        column.channel = kChannelsLast ? 0 : column.channel;
        if (++column.phase == shape.columns.stride) {
          column.phase = 0;
          ++column.w;
        }
      }
    }
  }

  // Whether all lanes have both columns, by taps of their own.
  __device__ __forceinline__ bool complete() const { return present_ == (1u << 2 * kLanes) - 1; }

  // Reads the next row, which exists, of lanes that are complete.
  __device__ __forceinline__ Row read() {
    Row row;
    row.exists = true;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      row.own[lane] = Element<T>::widen(next_[offset_[lane]]);
      row.left[lane] = Element<T>::widen(next_[offset_[lane] - back_]);
    }
    next_ += row_step_;
    return row;
  }

  // Reads row h, the next one. What does not exist is zero: its weight may be any.
  __device__ __forceinline__ Row read(const UpsamplingShape<int32_t>& shape, int32_t h) {
    Row row;
    row.exists = h >= 0 && h < shape.rows.pooled_size;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t exist = row.exists ? present_ >> 2 * lane : 0;
      row.own[lane] = (exist & 1) != 0 ? Element<T>::widen(next_[offset_[lane]]) : Wide{0};
      row.left[lane] = (exist & 2) != 0 ? Element<T>::widen(next_[offset_[lane] - back_]) : Wide{0};
    }
    next_ += row_step_;
    return row;
  }

  // The bias and, of phase p, the products with the rows that it sees.
  __device__ __forceinline__ void sum_up(int p, const Row& own, bool sees_own, const Row& above, bool sees_above,
                                         Wide (&sum)[kLanes]) const {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] = bias_[kChannelsLast ? lane : 0];
    if (sees_own) add_products(2 * p, own, sum);
    if (sees_above) add_products(2 * p + 1, above, sum);
  }

 private:
  __device__ __forceinline__ void add_products(int r, const Row& row, Wide (&sum)[kLanes]) const {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] = multiply_add(row.left[lane], weights_[2 * r + 1][lane], sum[lane]);
      sum[lane] = multiply_add(row.own[lane], weights_[2 * r][lane], sum[lane]);
    }
  }

  Wide weights_[Runs::kWeights][kLanes];
  Wide bias_[kChannelsLast ? kLanes : 1];
  const T* next_;            // row of input that is read next
  int32_t offset_[kLanes];   // own column in it
  uint32_t present_ = 0;     // bits 2 * lane and 2 * lane + 1: whether own and left column exist, and are a tap's
  int32_t back_, row_step_;  // elements to the column before, and to the row below
};

// Blocks of a multiprocessor, as registers allow.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
inline constexpr int kMinCellBlocks = kLanes > 2 || sizeof(T) > sizeof(float) || (kChannelsLast && kAdds) ? 2 : 3;

// A thread writes kLanes neighbouring elements of both rows of kPhases = 2 neighbouring phases, in some cells one below
// the other:
//
//     input rows      h - 1   . a b .        output    A A A A     row h * s + phase         one store
//                     h       . c d .                  A A A A     row h * s + phase + 1     one store
//                                                      ...         the other phases: other threads
//                     h + 1   . e f .                  B B B B     row (h + 1) * s + phase
//
// Its weights, four for each lane of a phase, are in registers before the first cell; a cell costs it the values of one
// new row of input, two for each lane, which neighbours share through the L1 cache. With 4 lanes a store has 16 bytes
// (float32) or 8: eight lanes of a half type would need twice the registers, and 32 threads in line write whole sectors
// either way.
//
// In channels_last a row's elements are all channels of all its columns, and lanes may belong to two columns.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, kMinCellBlocks<T, kLanes, kChannelsLast, kAdds>)
    depthwise_conv_transpose2d_cells_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                            LaneRuns<T, kLanes, kChannelsLast> runs, AddendSteps addend_steps,
                                            bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  const auto at = cells.thread();
  const TapRows rows(shape.rows, at.phase);
  if (runs.staged) runs.stage(arrays, shape, rows, at.plane);
  if (!at.present) return;

  CellLanes<T, kLanes, kChannelsLast> lanes(arrays, shape, at, rows, runs);
  const int32_t stride = shape.rows.stride;
  const int32_t first_row = at.phase - shape.rows.padding;  // of cell 0
  const int64_t element = at.run * kLanes;
  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  const int32_t row_step = shape.output.row_stride, addend_step = static_cast<int32_t>(addend_steps.row);
  int32_t h = at.cell;
  T* output = arrays.output + (at.plane * plane + (h * stride + first_row) * static_cast<int64_t>(row_step) + element);
  const T* addend = arrays.addend;
  if (kAdds) addend += at.plane * addend_steps.plane + (h * stride + first_row) * addend_steps.row + element;

  const auto load_terms = [&](int32_t row) {
    Lanes<T, kLanes> terms{};
    if constexpr (kAdds) {
      const T* added = addend + row * addend_step;
      if (addend_in_lanes) return load_vector<Lanes<T, kLanes>>(added);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) terms.lane[lane] = added[lane];
    }
    return terms;
  };
  const auto write = [&](int32_t row, const Wide(&sum)[kLanes], const Lanes<T, kLanes>& terms) {
    Lanes<T, kLanes> result;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      result.lane[lane] = Element<T>::narrow(kAdds ? sum[lane] + Element<T>::widen(terms.lane[lane]) : sum[lane]);
    }
    store_vector(output + row * row_step, result);
  };
  const auto step = [&] {
    ++h;
    output += stride * static_cast<int64_t>(row_step);
    if (kAdds) addend += stride * static_cast<int64_t>(addend_step);
  };
  using Row = InputRow<Wide, kLanes>;
  using Terms = Lanes<T, kLanes>;
  const auto write_cell = [&](const Row& own, const Row& above, const Terms(&terms)[kPhases]) {
#pragma unroll
    for (int p = 0; p < kPhases; ++p) {
      Wide sum[kLanes];
      lanes.sum_up(p, own, true, above, true, sum);
      write(p, sum, terms[p]);
    }
    step();
  };

  // Cells first..last - 1, an even number, lack nothing: two rows of input take turns as the one above.
  const int32_t end = at.cell + cells.per_thread < cells.end ? at.cell + cells.per_thread : cells.end;
  int32_t first = end, last = end;
  const int32_t lowest = shape.rows.size - kPhases - first_row;  // of which the last cell's first row is not below
  if (rows.complete && lanes.complete() && at.phase + kPhases <= stride && lowest >= 0) {
    first = first_row < 0 ? shape.rows.by_stride.quotient(stride - 1 - first_row) : 0;
    first = first > 1 ? first : 1;
    first = first > h ? first : h;
    last = shape.rows.by_stride.quotient(lowest) + 1;
    last = last < shape.rows.pooled_size ? last : shape.rows.pooled_size;
    last = last < end ? last : end;
    last = first < last ? last - (last - first) % 2 : first;
  }
  uint32_t taps = 0;  // bit r for kernel row rows.tap[r / 2][r % 2]
#pragma unroll
  for (int r = 0; r < 2 * kPhases; ++r) taps |= static_cast<uint32_t>(rows.tap[r / 2][r % 2] >= 0) << r;

  Row above = lanes.read(shape, h - 1);
  while (h < end) {
    if (h >= first && h < last) {
#pragma unroll 1
      while (h < last) {
        // Both cells' terms are on their way before the first is needed: they come from far.
        Terms terms[2][kPhases];
#pragma unroll
        for (int cell = 0; cell < 2; ++cell) {
#pragma unroll
          for (int p = 0; p < kPhases; ++p) terms[cell][p] = load_terms(cell * stride + p);
        }
        const Row own = lanes.read();
        write_cell(own, above, terms[0]);
        above = lanes.read();
        write_cell(above, own, terms[1]);
      }
    } else {
      const Row own = lanes.read(shape, h);
#pragma unroll
      for (int p = 0; p < kPhases; ++p) {
        if (at.phase + p >= stride || !shape.rows.contains(h * stride + first_row + p)) continue;
        Wide sum[kLanes];
        const bool has_own = (taps >> 2 * p & 1) != 0, has_above = (taps >> (2 * p + 1) & 1) != 0;
        lanes.sum_up(p, own, own.exists && has_own, above, above.exists && has_above, sum);
        write(p, sum, load_terms(p));
      }
      above = own;
      step();
    }
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
