// The building blocks of upsampling without mixing channels: its geometry, its weights, and how its work is divided
// among threads.
//
// Upsampling has the geometry of a pool in reverse: an input pixel is a window, and its taps are the output pixels that
// it contributes to. With stride s, the s output rows from h * s - origin on are the *cell* of input row h; row h * s -
// origin + p of the cell has phase p. If a kernel spans at most two strides, a pixel of the cell sees (depends on) only
// input rows h and h - 1, through taps that its phase alone determines:
//
//     stride 2, kernel 4     input row  h - 1    h             columns likewise
//                            phase 0    tap 2    tap 0
//                            phase 1    tap 3    tap 1
//
// A thread that moves down its column from cell to cell therefore needs the weights of only a few phases, which stay in
// registers or in shared memory, and uses each input row that it reads for two cells.
//
// Every sum is computed in a fixed order: from the last input row to the first, and from left to right within a row.
// Each product is added with a single rounding, as in the CPU kernels with FMA.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "../depthwise_conv_transpose2d.h"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace segext {

template <typename Index>
struct UpsamplingShape {
  Axis<Index> rows, columns;
  Order<Index> input, output;
  Divisor<Index> by_channels, by_multiplier;
  Index channels, multiplier;

  explicit UpsamplingShape(const Upsampling& g)
      : rows(g.output_height, g.height, g.kernel_h, g.stride_h, g.origin_h, g.dilation_h),
        columns(g.output_width, g.width, g.kernel_w, g.stride_w, g.origin_w, g.dilation_w),
        input(input_channels(g), g.height, g.width, g.channels_last),
        output(g.channels, g.output_height, g.output_width, g.channels_last),
        by_channels(g.channels),
        by_multiplier(g.multiplier),
        channels(static_cast<Index>(g.channels)),
        multiplier(static_cast<Index>(g.multiplier)) {}
};

inline int64_t input_elements(const Upsampling& g) { return input_channels(g) * g.height * g.width; }

inline int64_t output_elements(const Upsampling& g) { return g.channels * g.output_height * g.output_width; }

// Whether int32_t can hold every number that a kernel computes within a sample, including one of `addend`, and the
// number of warps that cover input or output. The input is counted with four extra rows, because a thread of the label
// map advances by that many rows at once; so uint32_t can hold the offset in bytes of every element of a row, and of a
// column to its right.
inline bool fits_int32(const Upsampling& g, const Addend& addend) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  const auto axis_fits = [](int64_t size, int64_t output_size, int64_t kernel, int64_t stride, int64_t origin,
                            int64_t dilation) {
    return size < kLimit && output_size < kLimit && kernel < kLimit && stride < kLimit && origin < kLimit &&
           dilation < kLimit && (size + 1) * stride < kLimit && kernel * dilation < kLimit &&
           origin + output_size + stride < kLimit;
  };
  return axis_fits(g.height, g.output_height, g.kernel_h, g.stride_h, g.origin_h, g.dilation_h) &&
         axis_fits(g.width, g.output_width, g.kernel_w, g.stride_w, g.origin_w, g.dilation_w) &&
         g.channels * (g.height + 4) * g.width < kLimit && output_elements(g) < kLimit && g.samples < kLimit &&
         g.samples * warps_per_sample(input_elements(g)) < kLimit &&
         g.samples * warps_per_sample(output_elements(g)) < kLimit && g.channels * g.kernel_h * g.kernel_w < kLimit &&
         (addend.data == nullptr || g.channels * addend.height * addend.width < kLimit);
}

// Calls `function` with the TypeTag of the index type that fits `g`.
template <typename Function>
CudaStatus for_index(const Upsampling& g, const Function& function) {
  return fits_int32(g, Addend{}) ? function(TypeTag<int32_t>{}) : function(TypeTag<int64_t>{});
}

// ---- Weights --------------------------------------------------------------------------------------------------------

// The caller's weights in global memory, [channels, kernel_h, kernel_w].
template <typename T, typename Index>
struct WeightsInMemory {
  const T* __restrict__ weight;
  Index kernel_h, kernel_w;

  __device__ __forceinline__ WideOf<T> at(Index channel, Index i, Index j) const {
    return Element<T>::widen(weight[(channel * kernel_h + i) * kernel_w + j]);
  }
};

// Some channels' kernel rows in shared memory, [rows, kernel_w, pitch], channels innermost. This is for channels_last,
// where neighbouring threads have neighbouring channels, whose weights are a whole kernel apart in global memory. The
// threads that fill the array have neighbouring kernel columns; an odd pitch places these in different banks.
template <typename Wide>
struct WeightsInShared {
  const Wide* weight;
  int32_t kernel_w, pitch;

  __device__ __forceinline__ const Wide* address(int32_t channel, int32_t row, int32_t j) const {
    return weight + (row * kernel_w + j) * pitch + channel;
  }

  __device__ __forceinline__ Wide at(int32_t channel, int32_t row, int32_t j) const {
    return *address(channel, row, j);
  }
};

// Divides the staging of WeightsInShared among the threads of a block.
struct Staging {
  int32_t rows, kernel_w, pitch;
  Divisor<int32_t> by_kernel_w;

  Staging() = default;
  Staging(int64_t rows, int64_t kernel_w, int64_t channels)
      : rows(static_cast<int32_t>(rows)),
        kernel_w(static_cast<int32_t>(kernel_w)),
        pitch(static_cast<int32_t>(channels | 1)),
        by_kernel_w(kernel_w) {}

  // Stages the weights of the first `channels` channels of `from`. Staged row `row` is their kernel row row_of(row);
  // where that is negative, the row is left unset. All threads of the block must call this.
  template <typename T, typename RowOf>
  __device__ __forceinline__ WeightsInShared<WideOf<T>> stage(const WeightsInMemory<T, int32_t>& from, int32_t channels,
                                                              const RowOf& row_of) const {
    auto* staged = dynamic_shared_memory<WideOf<T>>();
    for (int32_t row = 0; row < rows; ++row, staged += kernel_w * pitch) {
      const int32_t i = row_of(row);
      if (i < 0) continue;
      for (int32_t k = static_cast<int32_t>(threadIdx.x); k < channels * kernel_w; k += Launch::kBlockThreads) {
        int32_t j;
        const int32_t channel = by_kernel_w.divide(k, &j);
        staged[j * pitch + channel] = from.at(channel, i, j);
      }
    }
    __syncthreads();
    return {dynamic_shared_memory<WideOf<T>>(), kernel_w, pitch};
  }

  // The elements of shared memory that the staged rows take.
  int64_t elements() const { return static_cast<int64_t>(rows) * kernel_w * pitch; }

  // The bytes that the whole kernels of all channels take, or 0 if that is more than a block has; nothing is staged
  // then.
  template <typename T>
  static int64_t bytes(const Upsampling& g) {
    const int64_t limit = Launch::kMaxSharedBytes / static_cast<int64_t>(sizeof(WideOf<T>));
    if (g.kernel_w > limit || g.kernel_h > limit / g.kernel_w) return 0;
    const int64_t columns = g.kernel_h * g.kernel_w, pitch = g.channels | 1;
    return pitch > limit / columns ? 0 : columns * pitch * static_cast<int64_t>(sizeof(WideOf<T>));
  }
};

// ---- Any geometry ---------------------------------------------------------------------------------------------------

// Returns `sum` plus the products of all taps of one output element. `input` is the input of the element's sample.
template <typename T, typename Index, typename Weights>
__device__ __forceinline__ WideOf<T> sum_of_taps(const UpsamplingShape<Index>& shape, const T* __restrict__ input,
                                                 const Weights& weights, const Place<Index>& at, WideOf<T> sum) {
  const Index channel = shape.by_multiplier.quotient(at.channel);
  const Index first_row = shape.rows.first_window(at.row);
  const Index first_column = shape.columns.first_window(at.column);
  const Index last_column = shape.columns.last_window(at.column);
  for (Index h = shape.rows.last_window(at.row); h >= first_row; --h) {
    const Index i = shape.rows.tap(h, at.row);
    if (i < 0) continue;
    for (Index w = first_column; w <= last_column; ++w) {
      const Index j = shape.columns.tap(w, at.column);
      if (j < 0) continue;
      const auto value = Element<T>::widen(input[shape.input.element({channel, h, w})]);
      sum = multiply_add(value, weights.at(at.channel, i, j), sum);
    }
  }
  return sum;
}

// ---- Kernels that span at most two strides --------------------------------------------------------------------------

// The number of neighbouring phases that a thread has if it keeps per-phase values in registers. These phases share the
// input that the thread reads.
inline constexpr int kPhases = 2;

// The largest stride for which threads work on cells. With larger strides, threads could outnumber the rows of the
// output, and one thread per element is better.
inline constexpr int64_t kMaxCellStride = 256;

inline bool spans_two_strides(const Upsampling& g) {
  return (g.kernel_h - 1) <= (2 * g.stride_h - 1) / g.dilation_h &&
         (g.kernel_w - 1) <= (2 * g.stride_w - 1) / g.dilation_w && g.stride_h <= kMaxCellStride;
}

// Whether this is upsampling by two with 4x4 kernels, as in every bilinear one.
inline bool is_doubling(const Upsampling& g) {
  return g.stride_h == 2 && g.stride_w == 2 && g.kernel_h == 4 && g.kernel_w == 4 && g.dilation_h == 1 &&
         g.dilation_w == 1;
}

// Divides planes (of one channel, or of all channels in channels_last) among threads. A *unit* is some phases of all
// cells of a plane. Each thread of a unit has a run of neighbouring elements in a row, and some vertically adjacent
// cells.
struct Cells {
  Divisor<int32_t> by_unit_threads, by_groups, by_runs;
  int32_t units;
  int32_t first, end;  // the rows of cells that overlap the output; `end` is exclusive
  int32_t per_thread;
  int32_t phases;  // per unit

  // What a thread works on: its unit's phases, from `phase` on, of the cells from `cell` on. If the stride is not a
  // multiple of the phases per unit, the last unit of a plane has phases that do not exist.
  struct Thread {
    int32_t plane, phase, cell, run;
    bool present;
  };

  __device__ __forceinline__ Thread thread() const {
    Thread thread;
    int32_t in_unit, group;
    const int32_t unit = by_unit_threads.divide(static_cast<int32_t>(thread_number()), &in_unit);
    thread.plane = by_groups.divide(unit, &group);
    thread.phase = group * phases;
    thread.cell = first + by_runs.divide(in_unit, &thread.run) * per_thread;
    thread.present = unit < units && thread.cell < end;
    return thread;
  }

  // The cell after the last one of the thread.
  __device__ __forceinline__ int32_t end_of(const Thread& thread) const {
    return thread.cell + per_thread < end ? thread.cell + per_thread : end;
  }
};

// The range of cell rows in which `phases` phases, from `phase` on, lie inside the output. Whether all rows of input
// and all taps exist is not checked.
struct WholeCells {
  int32_t first, end;

  __device__ __forceinline__ WholeCells(const Axis<int32_t>& rows, int32_t phase, int32_t phases) {
    const int32_t before = rows.origin - phase;  // rows from cell 0's row of this phase to the output's first row
    // The phases of cell h end inside the output if h * stride <= room.
    const int32_t room = rows.pixels - phases + before;
    first = before <= 0 ? 0 : rows.by_stride.quotient(before - 1) + 1;
    end = room < 0 ? 0 : rows.by_stride.quotient(room) + 1;
  }

  // Leaves only cells that see two rows of input which both exist.
  __device__ __forceinline__ void keep_two_rows(const Axis<int32_t>& rows) {
    first = first > 1 ? first : 1;
    end = end < rows.windows ? end : rows.windows;
  }
};

// The rows of cells that overlap the output: the first, and the one after the last.
inline int64_t first_cell(const Upsampling& g) { return g.origin_h / g.stride_h; }
inline int64_t end_cell(const Upsampling& g) { return (g.origin_h + g.output_height - 1) / g.stride_h + 1; }

// The division into cells, and the number of threads to launch.
struct CellLaunch {
  Cells cells;
  int64_t threads;
};

// Rounds the number of threads per unit up to a multiple of `multiple`. The default, the threads of a block, ensures
// that no block has threads of two units. Returns nothing if there are too many threads for int32_t.
inline std::optional<CellLaunch> divide_cells(const Upsampling& g, int64_t planes, int64_t runs, int64_t per_thread,
                                              int64_t phases, int64_t multiple = Launch::kBlockThreads) {
  const int64_t groups = ceil_divide(g.stride_h, phases);
  const int64_t cell_rows = ceil_divide(end_cell(g) - first_cell(g), per_thread);
  const int64_t unit_threads = round_up(cell_rows * runs, multiple);
  const int64_t threads = planes * groups * unit_threads;
  if (!threads_fit_int32(threads)) return std::nullopt;
  const Cells cells{Divisor<int32_t>(unit_threads),
                    Divisor<int32_t>(groups),
                    Divisor<int32_t>(runs),
                    static_cast<int32_t>(planes * groups),
                    static_cast<int32_t>(first_cell(g)),
                    static_cast<int32_t>(end_cell(g)),
                    static_cast<int32_t>(per_thread),
                    static_cast<int32_t>(phases)};
  return CellLaunch{cells, threads};
}

// The two columns of input that a column of the output sees, its own (that of its cell) and the one to the left: the
// kernel columns through which it sees them, -1 if there is none, and whether it sees them, because tap and input
// exist.
struct ColumnTaps {
  int32_t own, left;
  bool has_own, has_left;

  // Finds them for the column of this phase of cell `w`.
  __device__ __forceinline__ void find(const Axis<int32_t>& columns, int32_t w, int32_t phase) {
    own = columns.tap_at(phase);
    left = columns.tap_at(phase + columns.stride);
    has_own = own >= 0 && w < columns.windows;
    has_left = left >= 0 && w >= 1 && w - 1 < columns.windows;
  }
};

// The kernel row through which output rows of this phase see the input row of their cell (`above` is 0) or the one
// above it (`above` is 1); -1 if there is none.
__device__ __forceinline__ int32_t tap_row(const Axis<int32_t>& rows, int32_t phase, int32_t above) {
  return rows.tap_at(phase + above * rows.stride);
}

// The kernel rows (tap_row) of a thread's phases, by phase and by `above`.
struct TapRows {
  int32_t tap[kPhases][2];
  bool complete;  // none is -1

  __device__ __forceinline__ TapRows(const Axis<int32_t>& rows, int32_t phase) : complete(true) {
#pragma unroll
    for (int p = 0; p < kPhases; ++p) {
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        tap[p][above] = tap_row(rows, phase + p, above);
        complete = complete && tap[p][above] >= 0;
      }
    }
  }
};

}  // namespace segext
