// The gradients of upsampling in channels_last, from gradients of its output that are stored in memory. For a
// multiplier of one and convolution kernels that span at most two strides.
//
//   depthwise_input_gradient_channels_last_kernel    for the input
//   depthwise_weight_gradient_channels_last_kernel   for weights and bias
//
// Neighbouring threads have neighbouring elements in memory: the columns of a row and, innermost, their channels. In
// the kernels of upsampling_gradients.cuh, they have neighbouring columns of one channel. In channels_last, these are a
// pixel apart, so each thread reads a sector of the L2 cache to use one element of it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "upsampling_gradients.cuh"

namespace segext {

// ---- Input ----------------------------------------------------------------------------------------------------------

// The number of vertically adjacent cells whose gradients a thread reads together.
inline constexpr int kCellsGathered = 4;

// The number of taps of each half of a kernel row that a thread reads at once. float64 has registers for fewer.
template <typename Wide>
inline constexpr int kTapsTogether = kManyAtOnce<Wide> ? 2 : 1;

// Divides an input among blocks. Each block has neighbouring elements of some rows, in as many channels as it has room
// for the weights of. Its threads form `parts` groups of whole warps. All groups have the same elements, but each has
// different taps of a kernel row.
struct InputGathers {
  Staging staging;           // of some phases: the kernel rows for the cell's input row, then those for the row above
  int32_t phases, channels;  // phases staged at once; channels per block
  int32_t rows;              // input rows per block: one less than the cells that a thread goes through
  int32_t half;              // taps of a kernel row in its first stride; the second stride has as many or fewer
  int32_t parts, part_taps;  // groups of threads; taps of each half per group
  int32_t sums;              // where the groups' sums begin in shared memory, in elements
  Divisor<int32_t> by_part_threads, by_channels, by_runs, by_segments, by_chunks;

  struct Thread {
    int32_t sample, row, column;
    int32_t first_channel, channel, block_channels;
    int32_t part, first_tap, end_tap;  // an empty range if the thread has no element
    bool present;
  };

  __device__ __forceinline__ Thread thread(const UpsamplingShape<int32_t>& shape) const {
    Thread thread;
    int32_t run, segment, chunk, in_part, in_chunk;
    const int32_t plane = by_segments.divide(by_runs.divide(static_cast<int32_t>(blockIdx.x), &run), &segment);
    thread.sample = by_chunks.divide(plane, &chunk);
    thread.row = segment * rows;
    thread.part = by_part_threads.divide(static_cast<int32_t>(threadIdx.x), &in_part);
    thread.column = by_channels.divide(run * (Launch::kBlockThreads / parts) + in_part, &in_chunk);
    thread.first_channel = chunk * channels;
    thread.channel = in_chunk;
    const int32_t left = shape.channels - thread.first_channel;
    thread.block_channels = left < channels ? left : channels;
    thread.present = in_chunk < left && thread.column < shape.columns.windows;
    thread.first_tap = thread.present ? thread.part * part_taps : 0;
    const int32_t end = thread.present ? thread.first_tap + part_taps : 0;
    thread.end_tap = end < half ? end : half;
    return thread;
  }
};

// A thread has one element of each of the block's input rows. Its pixel contributes to output columns of its own cell
// and of the next cell to the right; the thread gathers from all of these columns. Each row of the output contributes
// to two rows of input, so the thread adds each gradient to two sums:
//
//     input    A .      cell of C    c c . .     each c contributes to A and C
//              C .                   c c . .
//              E .      cell of E    e e . .     each e contributes to C and E
//                                    e e . .
//
// The thread takes kCellsGathered cells together, row by row. It reads the gradients in two columns a stride apart with
// all loads in flight at once. What it reads in a column of the next cell, its neighbour reads in its own cell at the
// same time, so that the L1 cache has it. Each gradient is multiplied by two weights, which are the same for all the
// cells.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, kSumBlocks<WideOf<T>>)
    depthwise_input_gradient_channels_last_kernel(const T* __restrict__ weight, const T* __restrict__ grad_output,
                                                  T* __restrict__ grad_input, UpsamplingShape<int32_t> shape,
                                                  InputGathers gathers) {
  using Wide = WideOf<T>;
  constexpr int kTogether = kCellsGathered;
  const Axis<int32_t>&rows = shape.rows, &columns = shape.columns;
  const auto at = gathers.thread(shape);
  const WeightsInMemory<T, int32_t> in_memory{weight + at.first_channel * rows.kernel * columns.kernel, rows.kernel,
                                              columns.kernel};
  const int32_t channel = at.first_channel + at.channel, pitch = gathers.staging.pitch, half = gathers.half;
  const int32_t first_x = columns.pixel(at.column, at.first_tap);
  const int32_t tap_step = columns.dilation * shape.output.column_stride;
  const int64_t row_step = shape.output.row_stride, cell_step = rows.stride * row_step;
  const T* const gradients = grad_output + at.sample * static_cast<int64_t>(shape.output.elements) +
                             first_x * static_cast<int64_t>(shape.output.column_stride) + channel;
  WeightsInShared<Wide> weights{};
  Wide sum[kTogether + 1] = {};  // for the input row above the cells, and for the cells' own

  // Adds what one row of each cell contributes: through the taps of one kernel row (`own_tap`) to the cell's row of
  // input, and through those of another (`above_tap`) to the row above it. `from` is that row of the first cell.
  // kWhole: all of these rows exist.
  const auto gather = [&](auto whole, const T* from, const bool (&exists)[kTogether], const Wide* own_tap, bool has_own,
                          const Wide* above_tap, bool has_above) {
    constexpr bool kWhole = decltype(whole)::value;
    constexpr int kTaps = kWhole ? kTapsTogether<Wide> : 1;
    int32_t x = first_x;
#pragma unroll 1
    for (int32_t j = at.first_tap; j < at.end_tap; j += kTaps) {
      bool has_tap[kTaps][2];  // whether tap t has a column: in the own cell, in the next one
      T gradient[kTaps][2][kTogether];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
#pragma unroll
        for (int next = 0; next < 2; ++next) {
          const int32_t in_half = j + t, tap = in_half + next * half;
          has_tap[t][next] = (t == 0 || in_half < at.end_tap) && (next == 0 || tap < columns.kernel) &&
                             columns.contains(x + (t + next * half) * columns.dilation);
#pragma unroll
          for (int k = 0; k < kTogether; ++k) {
            if (!has_tap[t][next] || !(kWhole || exists[k])) continue;
            gradient[t][next][k] = from[(t + next * half) * tap_step + k * cell_step];
          }
        }
      }
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
#pragma unroll
        for (int next = 0; next < 2; ++next) {
          if (!has_tap[t][next]) continue;
          const Wide own = own_tap[(t + next * half) * pitch], above = above_tap[(t + next * half) * pitch];
#pragma unroll
          for (int k = 0; k < kTogether; ++k) {
            if (!kWhole && !exists[k]) continue;
            const Wide value = Element<T>::widen(gradient[t][next][k]);
            if (kWhole || has_own) sum[k + 1] = multiply_add(value, own, sum[k + 1]);
            if (kWhole || has_above) sum[k] = multiply_add(value, above, sum[k]);
          }
        }
      }
      x += kTaps * columns.dilation;
      from += kTaps * tap_step;
      own_tap += kTaps * pitch;
      above_tap += kTaps * pitch;
    }
  };

  const int32_t end_row = at.row + gathers.rows < rows.windows ? at.row + gathers.rows : rows.windows;
  const auto store = [&](int32_t h, Wide value) {
    if (!at.present || h < at.row || h >= end_row) return;
    const int32_t element = shape.input.element({channel, h, at.column});
    grad_input[at.sample * static_cast<int64_t>(shape.input.elements) + element] = Element<T>::narrow(value);
  };

#pragma unroll 1
  for (int32_t h = at.row; h <= end_row; h += kTogether) {
#pragma unroll 1
    for (int32_t phase = 0; phase < rows.stride; phase += gathers.phases) {
      if (h == at.row || gathers.phases < rows.stride) {
        __syncthreads();  // other threads may still be reading the previous weights
        weights = gathers.staging.stage<T>(in_memory, at.block_channels, [&](int32_t row) {
          return row < gathers.phases ? tap_row(rows, phase + row, 0) : tap_row(rows, phase + row - gathers.phases, 1);
        });
      }
#pragma unroll 1
      for (int32_t p = phase; p < rows.stride && p < phase + gathers.phases; ++p) {
        const int32_t y = h * rows.stride - rows.origin + p;
        const bool has_own = tap_row(rows, p, 0) >= 0, has_above = tap_row(rows, p, 1) >= 0;
        bool exists[kTogether], whole = has_own && has_above;
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          exists[k] = h + k <= end_row && rows.contains(y + k * rows.stride);
          whole = whole && exists[k];
        }
        const T* from = gradients + y * row_step;
        const Wide* own_tap = weights.address(at.channel, p - phase, at.first_tap);
        const Wide* above_tap = weights.address(at.channel, p - phase + gathers.phases, at.first_tap);
        if (whole) {
          gather(std::true_type{}, from, exists, own_tap, true, above_tap, true);
        } else {
          gather(std::false_type{}, from, exists, own_tap, has_own, above_tap, has_above);
        }
      }
    }
    if (gathers.parts == 1) {
#pragma unroll
      for (int k = 0; k < kTogether; ++k) store(h - 1 + k, sum[k]);
    } else {
      // [kTogether, kBlockThreads]
      Wide* sums = dynamic_shared_memory<Wide>() + gathers.sums;
      __syncthreads();  // other threads may still be reading the previous cells' sums
#pragma unroll
      for (int k = 0; k < kTogether; ++k) sums[k * Launch::kBlockThreads + threadIdx.x] = sum[k];
      __syncthreads();
      const int32_t part_threads = Launch::kBlockThreads / gathers.parts;
      for (int32_t k = at.part; k < kTogether; k += gathers.parts) {
        const Wide* of_part =
            sums + k * Launch::kBlockThreads + static_cast<int32_t>(threadIdx.x) - at.part * part_threads;
        Wide total = 0;
        for (int32_t part = 0; part < gathers.parts; ++part) total += of_part[part * part_threads];
        store(h - 1 + k, total);
      }
    }
    sum[0] = sum[kTogether];
#pragma unroll
    for (int k = 1; k <= kTogether; ++k) sum[k] = 0;
  }
}

// ---- Weights and bias -----------------------------------------------------------------------------------------------

// The number of steps whose loads are in flight together. float64 has registers for fewer.
template <typename Wide>
inline constexpr int kStepsTogether = kManyAtOnce<Wide> ? 4 : 2;

// Divides cells among walks. A walk goes along the columns, or a segment of them, of some rows of cells; rows are
// counted across all samples. A *place* of a cell is one of its column phases and a channel; a cell's places are
// adjacent in memory, and a thread has one place of a walk. A unit is kPhases phases of rows and a range of places, no
// more than the threads of a block. Its threads are numbered walk by walk, and by place within a walk, so that each
// block has every place of the range.
struct PartWalks {
  Divisor<int32_t> by_ranges, by_range_places, by_segments, by_cell_rows;
  int32_t range_places, places;
  int32_t walks;
  int32_t first_row, rows, all_rows;  // rows of cells: a sample's first; per walk; in all samples
  int32_t first_column, columns, end_column;
};

// Computes parts of the gradients of weights and bias, for the taps of two phases of rows. A thread goes along the
// columns of a row of cells, at its place of each cell, with eight sums, one for each weight that its pixels use:
//
//     input rows      h - 1   a b      output    P     row h * s + phase         multiplied by a, b, c, d
//                     h       c d                P     row h * s + phase + 1     likewise
//
// A step reads two gradients and two values of the input, b and d; a and c are the b and d of the previous step.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, kSumBlocks<WideOf<T>>)
    depthwise_weight_gradient_channels_last_kernel(const T* __restrict__ input, const T* __restrict__ grad_output,
                                                   PartArrays<WideOf<T>> parts, UpsamplingShape<int32_t> shape,
                                                   PartWalks walks) {
  using Wide = WideOf<T>;
  constexpr int kSteps = kStepsTogether<Wide>;
  constexpr int kSums = kPhases * 2 * 2;  // by phase, input row (the cell's, the one above) and column (own, left)
  const Axis<int32_t>&rows = shape.rows, &columns = shape.columns;
  int32_t block, range, in_range, c, segment;
  const int32_t unit = parts.by_unit_blocks.divide(static_cast<int32_t>(blockIdx.x), &block);
  const int32_t phase = walks.by_ranges.divide(unit, &range) * kPhases;
  const int32_t walk =
      walks.by_range_places.divide(block * Launch::kBlockThreads + static_cast<int32_t>(threadIdx.x), &in_range);
  const int32_t first_place = range * walks.range_places, place = first_place + in_range;
  const int32_t column_phase = shape.by_channels.divide(place, &c);
  Wide sum[kSums] = {}, bias_sum = 0;
  if (walk < walks.walks && place < walks.places) {
    const int32_t first_row = walks.by_segments.divide(walk, &segment) * walks.rows;
    const int32_t end_row = first_row + walks.rows < walks.all_rows ? first_row + walks.rows : walks.all_rows;
    const int32_t first = walks.first_column + segment * walks.columns;
    const int32_t end = first + walks.columns < walks.end_column ? first + walks.columns : walks.end_column;
    const int32_t first_x = first * columns.stride - columns.origin + column_phase;
    // The ranges of steps that have a gradient, that have a value of the input, and that have everything.
    const int32_t before = columns.origin - column_phase;
    const int32_t first_gradient = before <= 0 ? 0 : columns.by_stride.quotient(before + columns.stride - 1);
    const int32_t behind = columns.by_stride.quotient(columns.pixels + before + columns.stride - 1);
    const int32_t end_gradient = behind < end ? behind : end;
    const int32_t end_value = end < columns.windows ? end : columns.windows;
    const int32_t first_whole = first_gradient < 1 ? 1 : first_gradient;
    const int32_t end_whole = end_gradient < end_value ? end_gradient : end_value;
    const int64_t in_step = shape.input.column_stride, step = columns.stride * int64_t{shape.output.column_stride};
    const int64_t in_row_step = shape.input.row_stride, row_step = shape.output.row_stride;
#pragma unroll 1
    for (int32_t row = first_row; row < end_row; ++row) {
      int32_t in_sample;
      const int32_t sample = walks.by_cell_rows.divide(row, &in_sample);
      const int32_t h = walks.first_row + in_sample, y = h * rows.stride - rows.origin + phase;
      const T* from = input + sample * int64_t{shape.input.elements} + h * in_row_step + first * in_step + c;
      const T* gradients = grad_output + sample * int64_t{shape.output.elements} + y * row_step +
                           first_x * int64_t{shape.output.column_stride} + c;
      bool has_input[2], has_gradient[kPhases], whole_rows = true;  // input rows: own, above; output rows: by phase
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        has_input[above] = h >= above && h - above < rows.windows;
        whole_rows = whole_rows && has_input[above];
      }
#pragma unroll
      for (int p = 0; p < kPhases; ++p) {
        has_gradient[p] = phase + p < rows.stride && rows.contains(y + p);
        whole_rows = whole_rows && has_gradient[p];
      }
      Wide left[2];
#pragma unroll
      for (int above = 0; above < 2; ++above) {
        const bool has_left = has_input[above] && first >= 1 && first - 1 < columns.windows;
        left[above] = has_left ? Element<T>::widen(from[-above * in_row_step - in_step]) : Wide{0};
      }

      int32_t w = first;
      // Takes the next kSteps steps. kWhole: all of them exist, and so does everything that they multiply.
      const auto take_steps = [&](auto whole) {
        constexpr bool kWhole = decltype(whole)::value;
        T gradient[kSteps][kPhases], value[kSteps][2];
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          const bool has_column = kWhole || (w + k >= first_gradient && w + k < end_gradient);
#pragma unroll
          for (int p = 0; p < kPhases; ++p) {
            gradient[k][p] = T{};
            if (has_column && (kWhole || has_gradient[p])) gradient[k][p] = gradients[k * step + p * row_step];
          }
#pragma unroll
          for (int above = 0; above < 2; ++above) {
            value[k][above] = T{};
            if (kWhole || (has_input[above] && w + k < end_value)) {
              value[k][above] = from[k * in_step - above * in_row_step];
            }
          }
        }
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          const bool has_column = kWhole || (w + k >= first_gradient && w + k < end_gradient);
          const bool has_own = kWhole || w + k < columns.windows;
          const bool has_left = kWhole || (w + k >= 1 && w + k - 1 < columns.windows);
          Wide own[2];
#pragma unroll
          for (int above = 0; above < 2; ++above) own[above] = Element<T>::widen(value[k][above]);
#pragma unroll
          for (int p = 0; p < kPhases; ++p) {
            if (!kWhole && !(has_column && has_gradient[p])) continue;
            const Wide g = Element<T>::widen(gradient[k][p]);
            bias_sum += g;
#pragma unroll
            for (int above = 0; above < 2; ++above) {
              if (!kWhole && !has_input[above]) continue;
              Wide* sums = sum + 4 * p + 2 * above;
              if (has_own) sums[0] = multiply_add(g, own[above], sums[0]);
              if (has_left) sums[1] = multiply_add(g, left[above], sums[1]);
            }
          }
#pragma unroll
          for (int above = 0; above < 2; ++above) left[above] = own[above];
        }
      };
#pragma unroll 1
      for (const int32_t last_whole = whole_rows ? end_whole - kSteps : -1; w < end; w += kSteps) {
        if (w >= first_whole && w <= last_whole) {
          take_steps(std::true_type{});
        } else {
          take_steps(std::false_type{});
        }
        from += kSteps * in_step;
        gradients += kSteps * step;
      }
    }
  }

  auto* sums = dynamic_shared_memory<Wide>();  // [kSums + 1, kBlockThreads]
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k * Launch::kBlockThreads + threadIdx.x] = sum[k];
  sums[kSums * Launch::kBlockThreads + threadIdx.x] = bias_sum;
  __syncthreads();
  int32_t first_in_range;  // that of thread 0
  walks.by_range_places.divide(block * Launch::kBlockThreads, &first_in_range);
  // The total of sum k over the block's threads that have this place of the range.
  const auto add_up = [&](int32_t k, int32_t e_in_range) {
    int32_t thread = e_in_range - first_in_range;
    if (thread < 0) thread += walks.range_places;
    Wide total = 0;
    for (; thread < Launch::kBlockThreads; thread += walks.range_places) {
      total += sums[k * Launch::kBlockThreads + thread];
    }
    return total;
  };
  const int32_t left = walks.places - first_place, count = left < walks.range_places ? left : walks.range_places;
  if (parts.weight != nullptr) {
    Wide* out = parts.weight + block * static_cast<int64_t>(shape.channels) * rows.kernel * columns.kernel;
    for (int32_t e = static_cast<int32_t>(threadIdx.x); e < kSums * walks.range_places; e += Launch::kBlockThreads) {
      int32_t e_in_range, e_channel;
      const int32_t k = walks.by_range_places.divide(e, &e_in_range), row = phase + k / 4;
      const int32_t e_phase = shape.by_channels.divide(first_place + e_in_range, &e_channel);
      const int32_t i = tap_row(rows, row, k / 2 % 2), j = columns.tap_at(e_phase + k % 2 * columns.stride);
      if (e_in_range >= count || row >= rows.stride || i < 0 || j < 0) continue;
      out[(e_channel * rows.kernel + i) * columns.kernel + j] = add_up(k, e_in_range);
    }
  }
  if (parts.bias != nullptr) {
    Wide* out = parts.bias + (block * static_cast<int64_t>(parts.units) + unit) * shape.channels;
    int32_t first_channel;  // of the range
    shape.by_channels.divide(first_place, &first_channel);
    for (int32_t e = static_cast<int32_t>(threadIdx.x); e < shape.channels; e += Launch::kBlockThreads) {
      int32_t e_in_range = e - first_channel;
      if (e_in_range < 0) e_in_range += shape.channels;
      Wide total = 0;
      for (; e_in_range < count; e_in_range += shape.channels) total += add_up(kSums, e_in_range);
      out[e] = total;
    }
  }
}

}  // namespace segext
