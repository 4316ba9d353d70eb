// The gradient of the input of upsampling by two (is_doubling), in NCHW, from gradients of its output that are stored
// in memory. For a multiplier of one.
//
//   depthwise_input_gradient_x2_kernel
//
// In the kernel for any stride (depthwise_input_gradient_cells.cuh), threads have columns of the output and add up what
// they have in shared memory. With a stride of two, a thread would do so for every four gradients. Here it has a column
// of the input and reads the four columns of gradients that this contributes to; its neighbours read two of them at the
// same time, so that the L1 cache has them.
#pragma once

#include "gradient_cells.cuh"

namespace segext {

// Divides columns of the input among threads, in segments of `rows` rows. Neighbouring threads have neighbouring
// columns.
struct ColumnSegments {
  Divisor<int32_t> by_width, by_segments;
  int32_t rows, threads;
};

// The number of cells whose gradients are in flight together. float64 has registers for fewer.
template <typename Wide>
inline constexpr int kGradientCells = kManyAtOnce<Wide> ? 4 : 2;

// A thread goes down its column. Each cell has two rows of gradients, to which two rows of input have contributed, each
// through two rows of taps:
//
//     input    A      cell of C    c c c c     through taps 0 of C, 2 of A
//              C                   c c c c     through taps 1 of C, 3 of A
//
// Columns beyond the output have taps of zero, so that they need no test later, and gradients of zero.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, kSumBlocks<WideOf<T>>)
    depthwise_input_gradient_x2_kernel(const T* __restrict__ weight, const T* __restrict__ grad_output,
                                       T* __restrict__ grad_input, UpsamplingShape<int32_t> shape,
                                       ColumnSegments segments) {
  using Wide = WideOf<T>;
  constexpr int kTogether = kGradientCells<Wide>, kTaps = 4;
  const auto number = static_cast<int32_t>(thread_number());
  if (number >= segments.threads) return;
  int32_t w, segment, c;
  const int32_t plane = segments.by_segments.divide(segments.by_width.divide(number, &w), &segment);
  shape.by_channels.divide(plane, &c);
  const Axis<int32_t>&rows = shape.rows, &columns = shape.columns;
  const int32_t first = segment * segments.rows, x = columns.pixel(w, 0);
  const int32_t end = first + segments.rows < rows.windows ? first + segments.rows : rows.windows;

  bool has_column[kTaps];
  Wide taps[kTaps][kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
    has_column[j] = columns.contains(x + j);
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      taps[i][j] = has_column[j] ? Element<T>::widen(weight[kTaps * (kTaps * c + i) + j]) : Wide{0};
    }
  }

  const int32_t row_step = shape.output.row_stride;
  const T* gradients = grad_output + plane * static_cast<int64_t>(shape.output.channel_stride) + x;
  T* input = grad_input + plane * static_cast<int64_t>(shape.input.channel_stride) + w;
  Wide sum[kTogether + 1] = {};  // for the input row above the next cell, and for the cells' own
#pragma unroll 1
  for (int32_t h = first; h <= end; h += kTogether) {
    const int32_t y = rows.pixel(h, 0);
    T gradient[2 * kTogether][kTaps];
    bool has_row[2 * kTogether];
#pragma unroll
    for (int k = 0; k < 2 * kTogether; ++k) {
      has_row[k] = rows.contains(y + k);
      const T* row = gradients + (y + k) * static_cast<int64_t>(row_step);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        gradient[k][j] = T{};
        if (has_row[k] && has_column[j]) gradient[k][j] = row[j];
      }
    }
#pragma unroll
    for (int k = 0; k < 2 * kTogether; ++k) {
      if (!has_row[k]) continue;
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const Wide value = Element<T>::widen(gradient[k][j]);
        sum[k / 2] = multiply_add(value, taps[k % 2 + 2][j], sum[k / 2]);
        sum[k / 2 + 1] = multiply_add(value, taps[k % 2][j], sum[k / 2 + 1]);
      }
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int32_t above = h - 1 + k;
      if (above >= first && above < end) input[above * shape.input.row_stride] = Element<T>::narrow(sum[k]);
      sum[k] = k == 0 ? sum[kTogether] : Wide{0};
    }
    sum[kTogether] = 0;
  }
}

}  // namespace segext
