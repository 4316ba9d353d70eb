// Kernels of upsampling without mixing channels: every output element is written once, by one thread, and nothing is
// stored in between.
//
//   depthwise_conv_transpose2d_cells_kernel   kernels that span at most two strides, such as every bilinear one
//   depthwise_conv_transpose2d_kernel         everything else: one element per thread, coalesced along the output
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

// A row of input as a thread's lanes see it: each at its own column and at the one left of it.
template <typename Wide, int kLanes>
struct InputRow {
  Wide own[kLanes], left[kLanes];
};

// Runs of kLanes elements of the output's rows. The weights they need recur after some runs (in NCHW with a stride of
// 8, after two), so a block, whose threads are all of one unit of cells, stages them once for its phases, in the order
// in which runs read them.
template <typename T, int kLanes, bool kChannelsLast>
struct LaneRuns {
  using Wide = typename Element<T>::Wide;
  static constexpr int kWeights =
      4;  // of a phase: of the cell's row of input, own and left; of the one above, likewise
  Divisor<int32_t> by_class_runs, by_class_elements;
  int32_t class_elements;  // of the runs after which weights recur

  explicit LaneRuns(const Upsampling& g)
      : by_class_runs(elements(g) / kLanes),
        by_class_elements(elements(g)),
        class_elements(static_cast<int32_t>(elements(g))) {}

  static int64_t elements(const Upsampling& g) { return std::lcm(g.stride_w * depth_of(g), int64_t{kLanes}); }

  // Of shared memory; 0 for more than a block has.
  static int64_t phase_bytes(const Upsampling& g) {
    constexpr int64_t kElementBytes = kWeights * static_cast<int64_t>(sizeof(Wide));
    return elements(g) <= Launch::kMaxSharedBytes / kElementBytes ? elements(g) * kElementBytes : 0;
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

  // Into [phases, kWeights, class_elements]; zero where there is no tap. All threads of the block call.
  __device__ __forceinline__ void stage(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                        const Cells::Thread& at, int32_t phases) const {
    const WeightsInMemory<T, int32_t> weights{arrays.weight, shape.rows.kernel, shape.columns.kernel};
    auto* table = dynamic_shared_memory<Wide>();
    // Neighbouring threads have neighbouring elements; where there are few of these, several phases at a time.
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int32_t step = class_elements < Launch::kBlockThreads ? Launch::kBlockThreads / class_elements : 1;
    int32_t e = thread;
    const int32_t first = step > 1 ? by_class_elements.divide(thread, &e) : 0;
    for (e = first < step ? e : class_elements; e < class_elements; e += Launch::kBlockThreads) {
      const Column column(shape, e, at.plane);
      const int32_t own = shape.columns.tap_at(column.phase);
      const int32_t left = shape.columns.tap_at(column.phase + shape.columns.stride);
      for (int32_t p = first; p < phases; p += step) {
#pragma unroll
        for (int above = 0; above < 2; ++above) {
          const int32_t i = tap_row(shape.rows, at.phase + p, above);
          Wide* row = table + (kWeights * p + 2 * above) * class_elements + e;
          row[0] = i >= 0 && own >= 0 ? weights.at(column.channel, i, own) : Wide{0};
          row[class_elements] = i >= 0 && left >= 0 ? weights.at(column.channel, i, left) : Wide{0};
        }
      }
    }
    __syncthreads();
  }

  // Those of a run, of the block's first phase.
  __device__ __forceinline__ const Wide* weights_of(int32_t run) const {
    int32_t in_class;
    by_class_runs.divide(run, &in_class);
    return dynamic_shared_memory<Wide>() + in_class * kLanes;
  }
};

// What a thread's lanes read of the input: of each row, their own columns and those left of them.
template <typename T, int kLanes, bool kChannelsLast>
class InputColumns {
  using Wide = typename Element<T>::Wide;
  using Column = typename LaneRuns<T, kLanes, kChannelsLast>::Column;

 public:
  // Before the row of the thread's first cell.
  __device__ __forceinline__ InputColumns(const ScoreArrays<T>& arrays, const UpsamplingShape<int32_t>& shape,
                                          const Cells::Thread& at)
      : back_(kChannelsLast ? shape.input.column_stride : 1), row_step_(shape.input.row_stride) {
    Column column(shape, at.run * kLanes, at.plane);
    next_ = arrays.input + at.cell * static_cast<int64_t>(row_step_);
    next_ += kChannelsLast ? at.plane * static_cast<int64_t>(shape.input.elements)
                           : shape.by_multiplier.quotient(at.plane) * static_cast<int64_t>(shape.input.channel_stride);
    int32_t first = 0;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t own =
          column.w * shape.input.column_stride + (kChannelsLast ? shape.by_multiplier.quotient(column.channel) : 0);
      if (lane == 0) first = own;
      offset_[lane] = own - first;
      if (kChannelsLast || lane == 0) {
        bias_[lane] = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[column.channel]);
      }
#pragma unroll
      for (int left = 0; left < 2; ++left) {
        const bool tap = shape.columns.tap_at(column.phase + left * shape.columns.stride) >= 0;
        const bool exists = tap && column.w >= left && column.w - left < shape.columns.pooled_size;
        present_ |= static_cast<uint32_t>(exists) << (2 * lane + left);
      }
      if (!kChannelsLast || ++column.channel == shape.channels) {
        column.channel = kChannelsLast ? 0 : column.channel;
        if (++column.phase == shape.columns.stride) {
          column.phase = 0;
          ++column.w;
        }
      }
    }
    next_ += first;
  }

  // Reads the next row. All is zero unless it exists. Without a branch, so that rows which are read one after the other
  // are on their way together.
  __device__ __forceinline__ InputRow<Wide, kLanes> read(bool exists) {
    InputRow<Wide, kLanes> row;
    const uint32_t present = exists ? present_ : 0;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const T* own = next_ + offset_[lane];
      T own_value{}, left_value{};
      if ((present >> 2 * lane & 1) != 0) own_value = *own;
      if ((present >> 2 * lane & 2) != 0) left_value = *(own - back_);
      row.own[lane] = Element<T>::widen(own_value);
      row.left[lane] = Element<T>::widen(left_value);
    }
    next_ += row_step_;
    return row;
  }

  // Goes back over so many rows.
  __device__ __forceinline__ void step_back(int32_t rows) { next_ -= rows * static_cast<int64_t>(row_step_); }

  __device__ __forceinline__ Wide bias(int lane) const { return bias_[kChannelsLast ? lane : 0]; }

 private:
  Wide bias_[kChannelsLast ? kLanes : 1];
  const T* next_;            // the first lane's own column in the row that is read next
  int32_t offset_[kLanes];   // from there to each lane's
  uint32_t present_ = 0;     // bits 2 * lane and 2 * lane + 1: whether own and left column exist, and are a tap's
  int32_t back_, row_step_;  // elements to the column before, and to the row below
};

// Cells, one below the other, whose rows of a phase a thread writes together, and blocks of a multiprocessor: as many
// as registers allow.
template <int kLanes, bool kAdds>
inline constexpr int kCellsTogether = kAdds && kLanes > 2 ? 3 : 4;
template <int kLanes>
inline constexpr int kMinCellBlocks = kLanes > 2 ? 2 : 3;

// A thread writes kLanes neighbouring elements of the rows of its unit's phases, in some cells one below the other:
//
//     input rows      h - 1   . a b .        output    A A A A     row h * s + phase         one store
//                     h       . c d .                  A A A A     row h * s + phase + 1     one store
//                                                      ...         as many phases as weights are staged for
//                     h + 1   . e f .                  B B B B     row (h + 1) * s + phase
//
// A cell costs it the values of one new row of input, two for each lane, which neighbours share through the L1 cache; a
// phase its weights, four vectors from shared memory, once for all cells that are written together. The rows of input
// of these are on their way at once, and so is what is added to a row of each. With 4 lanes a store has 16 bytes
// (float32) or 8; 32 threads in line write whole sectors either way.
//
// In channels_last a row's elements are all channels of all its columns, and lanes may belong to two columns.
template <typename T, int kLanes, bool kChannelsLast, bool kAdds>
__global__ void __launch_bounds__(Launch::kBlockThreads, kMinCellBlocks<kLanes>)
    depthwise_conv_transpose2d_cells_kernel(ScoreArrays<T> arrays, UpsamplingShape<int32_t> shape, Cells cells,
                                            LaneRuns<T, kLanes, kChannelsLast> runs, AddendSteps addend_steps,
                                            bool addend_in_lanes) {
  using Wide = typename Element<T>::Wide;
  using Weights = Lanes<Wide, kLanes>;
  using Row = InputRow<Wide, kLanes>;
  constexpr int kTogether = kCellsTogether<kLanes, kAdds>;
  const auto at = cells.thread();
  runs.stage(arrays, shape, at, cells.phases);
  if (!at.present) return;

  InputColumns<T, kLanes, kChannelsLast> columns(arrays, shape, at);
  const Wide* const weights = runs.weights_of(at.run);
  const int32_t stride = shape.rows.stride;
  const int32_t phases = at.phase + cells.phases < stride ? cells.phases : stride - at.phase;
  const int32_t y = at.cell * stride + at.phase - shape.rows.padding;  // of the first phase
  const int64_t element = at.run * kLanes, row_step = shape.output.row_stride, cell_step = stride * row_step;
  const int64_t plane = kChannelsLast ? shape.output.elements : shape.output.channel_stride;
  T* output = arrays.output + (at.plane * plane + y * row_step + element);  // the cell's first row
  const T* addend = arrays.addend;                                          // likewise
  if (kAdds) addend += at.plane * addend_steps.plane + y * addend_steps.row + element;

  const auto row_exists = [&](int32_t h) { return h >= 0 && h < shape.rows.pooled_size; };
  const auto load_added = [&](int32_t row) {
    Lanes<T, kLanes> added{};
    if constexpr (kAdds) {
      const T* from = addend + row * addend_steps.row;
      if (addend_in_lanes) return load_vector<Lanes<T, kLanes>>(from);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) added.lane[lane] = from[lane];
    }
    return added;
  };
  const auto load_weights = [&](int32_t p, int number) {
    return load_vector<Weights>(weights + (runs.kWeights * p + number) * runs.class_elements);
  };
  const auto start_sum = [&](Wide(&sum)[kLanes]) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] = columns.bias(lane);
  };
  const auto add_products = [](const Row& row, const Weights& own, const Weights& left, Wide(&sum)[kLanes]) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] = multiply_add(row.left[lane], left.lane[lane], sum[lane]);
      sum[lane] = multiply_add(row.own[lane], own.lane[lane], sum[lane]);
    }
  };
  const auto write = [](const Wide(&sum)[kLanes], const Lanes<T, kLanes>& added, T* to) {
    Lanes<T, kLanes> result;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      result.lane[lane] = Element<T>::narrow(kAdds ? sum[lane] + Element<T>::widen(added.lane[lane]) : sum[lane]);
    }
    store_vector(to, result);
  };

  Row rows[kTogether + 1];  // of input: the one above the next cell, and those of the cells

  // The next cells, which lack nothing.
  const auto write_cells = [&](int32_t count) {
    Lanes<T, kLanes> added[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) rows[k + 1] = columns.read(k < count);
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (k < count) added[k] = load_added(k * stride);
    }
#pragma unroll 1
    for (int32_t p = 0; p < phases; ++p) {
      const Weights own = load_weights(p, 0), left = load_weights(p, 1);
      const Weights own_above = load_weights(p, 2), left_above = load_weights(p, 3);
      T* to = output + p * row_step;
#pragma unroll
      for (int k = 0; k < kTogether; ++k, to += cell_step) {
        if (k >= count) break;
        Wide sum[kLanes];
        start_sum(sum);
        add_products(rows[k + 1], own, left, sum);
        add_products(rows[k], own_above, left_above, sum);
        write(sum, added[k], to);
        if (p + 1 < phases) added[k] = load_added(k * stride + p + 1);
      }
    }
    rows[0] = rows[kTogether];  // of use where there are as many cells
    columns.step_back(kTogether - count);
  };

  // The next cell, h, at a border of either map, or of a kernel that spans less than two strides.
  const auto write_cell = [&](int32_t h) {
    rows[1] = columns.read(row_exists(h));
#pragma unroll 1
    for (int32_t p = 0; p < phases; ++p) {
      if (!shape.rows.contains(y + (h - at.cell) * stride + p)) continue;
      Wide sum[kLanes];
      start_sum(sum);
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        if (!row_exists(h - above) || tap_row(shape.rows, at.phase + p, above) < 0) continue;
        add_products(rows[1 - above], load_weights(p, 2 * above), load_weights(p, 2 * above + 1), sum);
      }
      write(sum, load_added(p), output + p * row_step);
    }
  };

  const bool all_taps = shape.rows.dilation == 1 && at.phase + phases - 1 + stride < shape.rows.kernel;
  const WholeCells whole(shape.rows, at.phase, phases);
  const int32_t end = cells.end_of(at);
  // Cells before this one lack nothing, from whole.first on.
  const int32_t whole_end = !all_taps ? 0 : whole.end < end ? whole.end : end;
  bool has_above = false;
  for (int32_t h = at.cell; h < end;) {
    if (!has_above) {
      columns.step_back(1);
      rows[0] = columns.read(row_exists(h - 1));
    }
    int32_t count = 1;
    if (h >= whole.first && h < whole_end) {
      count = whole_end - h < kTogether ? whole_end - h : kTogether;
      write_cells(count);
    } else {
      write_cell(h);
    }
    has_above = count == kTogether;
    h += count;
    output += count * cell_step;
    if (kAdds) addend += count * stride * addend_steps.row;
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
      return staging.stage<T>(in_memory, shape.channels, [](int32_t row) { return row; });
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
