// The gradients of the weights and bias of upsampling, from any Source (see upsampling_gradients.cuh), for convolution
// kernels that span at most two strides, e.g. all bilinear ones.
//
//   depthwise_weight_gradient_cells_kernel
#pragma once

#include "block_reduce.cuh"
#include "gradient_cells.cuh"

namespace segext {

// Computes parts of the gradients of one class's weights and bias, for the taps of two phases. A thread goes down its
// column of the output with eight sums, one for each weight that its pixels use:
//
//     input rows      h - 1   a b      output    P     row h * s + phase         multiplied by a, b, c, d
//                     h       c d                P     row h * s + phase + 1     likewise
//
// Columns are counted from the first column of the first cell, whether or not the output has it. The columns of one
// phase are therefore a stride apart in every block, which is how its threads then find the sums to add up for each
// tap.
template <typename T, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, kSumBlocks<WideOf<T>>)
    depthwise_weight_gradient_cells_kernel(ScoreOperands<T> operands, Source gradients, PartArrays<WideOf<T>> parts,
                                           UpsamplingShape<int32_t> shape, Cells cells) {
  using Wide = WideOf<T>;
  constexpr int kCells = 2;               // processed at once
  constexpr int kSums = kPhases * 2 * 2;  // by phase, input row (the cell's, the one above) and column (own, left)
  const int32_t stride_w = shape.columns.stride;
  const auto at = cells.thread();
  int32_t c, phase;
  const int32_t sample = shape.by_channels.divide(at.plane, &c);
  const int32_t w =
      shape.columns.by_stride.divide(at.run, &phase) + shape.columns.by_stride.quotient(shape.columns.origin);
  const int32_t x = w * stride_w - shape.columns.origin + phase;
  const TapRows rows(shape.rows, at.phase);
  Wide sum[kSums] = {}, bias_sum = 0;
  if (at.present && shape.columns.contains(x)) {
    const WeightsInMemory<T, int32_t> in_memory{operands.weight, shape.rows.kernel, shape.columns.kernel};
    PixelWeights<Wide> weights[kPhases];
#pragma unroll
    for (int p = 0; p < kPhases; ++p) {
      weights[p] = PixelWeights<Wide>::load(in_memory, shape, c, at.phase + p, phase);
    }
    const T* plane = operands.input + sample * static_cast<int64_t>(shape.input.elements) +
                     shape.by_multiplier.quotient(c) * static_cast<int64_t>(shape.input.channel_stride);
    const ClassColumn<T> column(plane, shape, w, phase);
    auto source = gradients.column(shape, sample, c, at.cell * shape.rows.stride - shape.rows.origin + at.phase, x);
    const Wide bias = operands.bias_of(c);
    // Cells whole.first..end_whole - 1 have all pixels of these phases and all the input that these see. They are
    // processed kCells at a time; there are none unless `many`.
    const bool many = kManyAtOnce<Wide> && source.plain && rows.complete && at.phase + kPhases <= shape.rows.stride;
    WholeCells whole(shape.rows, at.phase, kPhases);
    whole.keep_two_rows(shape.rows);
    const int32_t end = cells.end_of(at), end_whole = !many ? 0 : whole.end < end ? whole.end : end;
    const auto add = [&](int p, Wide gradient, const InputPair<Wide>& row, bool sees_row, const InputPair<Wide>& above,
                         bool sees_above) {
      bias_sum += gradient;
      if (sees_row && column.taps.has_own) sum[4 * p] = multiply_add(gradient, row.own, sum[4 * p]);
      if (sees_row && column.taps.has_left) sum[4 * p + 1] = multiply_add(gradient, row.left, sum[4 * p + 1]);
      if (sees_above && column.taps.has_own) sum[4 * p + 2] = multiply_add(gradient, above.own, sum[4 * p + 2]);
      if (sees_above && column.taps.has_left) sum[4 * p + 3] = multiply_add(gradient, above.left, sum[4 * p + 3]);
    };
    InputPair<Wide> above = column.read(shape, at.cell - 1);
    int32_t h = at.cell;
#pragma unroll 1
    while (h < end) {
      if (kManyAtOnce<Wide> && h >= whole.first && h + kCells <= end_whole) {
        InputPair<Wide> row[kCells + 1] = {above};
        Wide gradient[kCells][kPhases];
#pragma unroll
        for (int k = 0; k < kCells; ++k) {
          row[k + 1] = column.read(shape, h + k, true);
          const auto score = [&](int p) { return weights[p].score(bias, row[k + 1], true, row[k], true); };
          source.read(score, gradient[k]);
          source.advance(shape.rows.stride);
        }
#pragma unroll
        for (int k = 0; k < kCells; ++k) {
#pragma unroll
          for (int p = 0; p < kPhases; ++p) add(p, gradient[k][p], row[k + 1], true, row[k], true);
        }
        above = row[kCells];
        h += kCells;
        continue;
      }
      const InputPair<Wide> row = column.read(shape, h);
      const int32_t y = h * shape.rows.stride - shape.rows.origin + at.phase;
#pragma unroll
      for (int p = 0; p < kPhases; ++p) {
        if (at.phase + p >= shape.rows.stride || !shape.rows.contains(y + p)) continue;
        const bool sees_row = row.exists && rows.tap[p][0] >= 0, sees_above = above.exists && rows.tap[p][1] >= 0;
        const auto score = [&](int) { return weights[p].score(bias, row, sees_row, above, sees_above); };
        Wide gradient[1];
        gradients.column(shape, sample, c, y + p, x).read(score, gradient);
        add(p, gradient[0], row, sees_row, above, sees_above);
      }
      above = row;
      source.advance(shape.rows.stride);
      ++h;
    }
  }

  int32_t block;
  parts.by_unit_blocks.divide(static_cast<int32_t>(blockIdx.x), &block);
  const int64_t part = sample * static_cast<int64_t>(parts.unit_blocks) + block;
  if (parts.bias != nullptr) {
    const double total = block_sum(bias_sum);
    const int64_t unit_part = part * parts.units + at.phase / kPhases;
    if (threadIdx.x == 0) parts.bias[unit_part * shape.channels + c] = static_cast<Wide>(total);
  }
  if (parts.weight == nullptr) return;
  auto* sums = dynamic_shared_memory<Wide>();  // [kSums, kBlockThreads]
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k * Launch::kBlockThreads + threadIdx.x] = sum[k];
  __syncthreads();
  int32_t first_phase;  // that of thread 0
  shape.columns.by_stride.divide(block * Launch::kBlockThreads, &first_phase);
  Wide* out = parts.weight + (part * shape.channels + c) * shape.rows.kernel * shape.columns.kernel;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < kSums * stride_w; e += Launch::kBlockThreads) {
    int32_t e_phase;
    const int32_t k = shape.columns.by_stride.divide(e, &e_phase), row = at.phase + k / 4;
    const int32_t i = tap_row(shape.rows, row, k / 2 % 2), j = shape.columns.tap_at(e_phase + k % 2 * stride_w);
    if (row >= shape.rows.stride || i < 0 || j < 0) continue;
    Wide total = 0;
    int32_t thread = e_phase - first_phase;
    if (thread < 0) thread += stride_w;
    for (; thread < Launch::kBlockThreads; thread += stride_w) total += sums[k * Launch::kBlockThreads + thread];
    out[i * shape.columns.kernel + j] = total;
  }
}

}  // namespace segext
