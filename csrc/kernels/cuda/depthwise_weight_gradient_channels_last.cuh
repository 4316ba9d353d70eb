// The gradients of the weights and bias of upsampling in channels_last, from gradients of its output that are stored in
// memory. For a multiplier of one and convolution kernels that span at most two strides.
//
//   depthwise_weight_gradient_channels_last_kernel
//
// Neighbouring threads have neighbouring elements in memory, as in depthwise_input_gradient_channels_last.cuh.
#pragma once

#include <type_traits>

#include "gradient_cells.cuh"

namespace segext {

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
