// The gradient of the input of upsampling in channels_last, from gradients of its output that are stored in memory. For
// a multiplier of one and convolution kernels that span at most two strides.
//
//   depthwise_input_gradient_channels_last_kernel
//
// Neighbouring threads have neighbouring elements in memory: the columns of a row and, innermost, their channels. In
// the kernels of upsampling_gradients.cuh, they have neighbouring columns of one channel. In channels_last, these are a
// pixel apart, so each thread reads a sector of the L2 cache to use one element of it.
#pragma once

#include <type_traits>

#include "gradient_cells.cuh"

namespace segext {

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

}  // namespace segext
