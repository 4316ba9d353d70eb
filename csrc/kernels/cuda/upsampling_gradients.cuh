// The gradients of upsampling, computed from the gradients of its output, whatever supplies those. All sums are
// gathered, in one fixed order.
//
//   depthwise_input_gradient_cells_kernel    convolution kernels that span at most two strides, e.g. all bilinear ones
//   depthwise_weight_gradient_cells_kernel   likewise; for weights and bias
//   depthwise_input_gradient_kernel          everything else: one element per thread
//   depthwise_weight_gradient_kernel         likewise: one weight per block
//   depthwise_bias_gradient_kernel           likewise: one class per block
//
// A Source supplies the gradients of the output. Its column(shape, sample, c, y, x) returns a position in a column of
// one channel, and advance(rows) moves this position down. The position may be outside the output, except for
// read(score, gradients), which reads as many rows, from the position on, as `gradients` has elements. It may read more
// than one row only if the column is `plain`, and never more than kRowsAtOnce, for which registers have room. score(k)
// computes the k-th output element itself, for a source whose gradients depend on it.
#pragma once

#include <type_traits>

#include "../depthwise_conv_transpose2d_backward.h"
#include "block_reduce.cuh"
#include "score_cells.cuh"

namespace segext {

// ---- Kernels that span at most two strides --------------------------------------------------------------------------

// What a pixel of a cell sees of one row of input, for one class: the elements in its own column and in the one to the
// left. An element is zero if it does not exist or no tap reaches it.
template <typename Wide>
struct InputPair {
  Wide own = 0, left = 0;
  bool exists = false;
};

// A column of the output, and the two input columns of one class that it sees.
template <typename T>
struct ClassColumn {
  using Wide = WideOf<T>;
  const T* own;  // the own column in row 0
  ColumnTaps taps;

  __device__ __forceinline__ ClassColumn(const T* __restrict__ plane, const UpsamplingShape<int32_t>& shape, int32_t w,
                                         int32_t phase)
      : own(plane + w * static_cast<int64_t>(shape.input.column_stride)) {
    taps.find(shape.columns, w, phase);
  }

  __device__ __forceinline__ InputPair<Wide> read(const UpsamplingShape<int32_t>& shape, int32_t h) const {
    return read(shape, h, h >= 0 && h < shape.rows.windows);
  }

  __device__ __forceinline__ InputPair<Wide> read(const UpsamplingShape<int32_t>& shape, int32_t h, bool exists) const {
    InputPair<Wide> pair;
    pair.exists = exists;
    const T* pixel = own + h * static_cast<int64_t>(shape.input.row_stride);
    if (pair.exists && taps.has_own) pair.own = Element<T>::widen(*pixel);
    if (pair.exists && taps.has_left) pair.left = Element<T>::widen(*(pixel - shape.input.column_stride));
    return pair;
  }
};

// The weights of a pixel of a cell, by row of input (the cell's, the one above) and by column of input (its own, the
// one to the left). Zero where there is no tap.
template <typename Wide>
struct alignas(kVectorBytes) PixelWeights {
  Wide tap[2][2] = {};

  template <typename T>
  __device__ __forceinline__ static PixelWeights load(const WeightsInMemory<T, int32_t>& weights,
                                                      const UpsamplingShape<int32_t>& shape, int32_t c, int32_t row,
                                                      int32_t column) {
    PixelWeights result;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int32_t i = tap_row(shape.rows, row, k / 2);
      const int32_t j = shape.columns.tap_at(column + k % 2 * shape.columns.stride);
      if (i >= 0 && j >= 0) result.tap[k / 2][k % 2] = weights.at(c, i, j);
    }
    return result;
  }

  // Adds in the order of the forward kernels, so that scores are the same to the bit and none exceeds the largest score
  // that they found.
  __device__ __forceinline__ Wide score(Wide bias, const InputPair<Wide>& row, bool sees_row,
                                        const InputPair<Wide>& above, bool sees_above) const {
    Wide sum = bias;
    if (sees_row) sum = multiply_add(row.own, tap[0][0], multiply_add(row.left, tap[0][1], sum));
    if (sees_above) sum = multiply_add(above.own, tap[1][0], multiply_add(above.left, tap[1][1], sum));
    return sum;
  }
};

// Divides an input among blocks. Each block has a tile of one plane, of `rows` by `cells` - 1 pixels. Its threads have
// columns of the output and go down the tile's cells. A tile has one more row and one more column of cells than of
// pixels: its last ones are the first ones of the next tiles.
//
// `group`: the number of neighbouring columns whose threads combine their sums with shuffles. It is the largest power
// of two for which a group always lies within one cell and one warp. `groups`: the number of groups in a cell. `pitch`:
// the distance between the sums of neighbouring cells. It is odd, so that threads that add up neighbouring cells use
// different banks.
struct GradientTiles {
  int32_t rows, cells, group, groups, pitch;
  bool whole_taps;  // rows of every phase have taps on two rows of input
  Divisor<int32_t> by_strips, by_segments, by_inputs, by_columns;

  struct Tile {
    int32_t sample, input, row, column;
  };

  __device__ __forceinline__ Tile tile() const {
    int32_t strip, segment;
    Tile tile;
    const int32_t plane = by_segments.divide(by_strips.divide(static_cast<int32_t>(blockIdx.x), &strip), &segment);
    tile.sample = by_inputs.divide(plane, &tile.input);
    tile.row = segment * rows;
    tile.column = strip * (cells - 1);
    return tile;
  }

  // Combines what a group's threads have for the pixels of two input columns (`own` and `left`), and adds the results
  // to sums[0] and sums[side]. `sums` is null for a group outside the tile. All threads of the warp must call this. The
  // first two threads of a group each update one of the two sums.
  template <typename Wide>
  __device__ __forceinline__ void add(Wide own, Wide left, Wide* sums, int32_t side) const {
    const int32_t in_group = static_cast<int32_t>(threadIdx.x) & (group - 1);
    if (group == 1) {
      if (sums == nullptr) return;
      sums[0] += own;
      sums[side] += left;
      return;
    }
    const bool is_left = (in_group & 1) != 0;
    Wide sum = is_left ? left : own;
    sum += __shfl_xor_sync(0xffffffffu, is_left ? own : left, 1);
    for (int32_t step = 2; step < group; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (in_group < 2 && sums != nullptr) sums[is_left ? side : 0] += sum;
  }
};

// Whether a thread holds the gradients of several pixels at once, so that the latencies of their loads overlap. float64
// leaves too few registers for that.
template <typename Wide>
inline constexpr bool kManyAtOnce = sizeof(Wide) == sizeof(float);

// The number of blocks per multiprocessor that registers leave room for. Unless the compiler is told, ptxas uses a few
// more registers on some architectures.
inline constexpr int kGradientBlocks = 3;

// The same for kernels whose float64 sums take more registers than that number leaves.
template <typename Wide>
inline constexpr int kSumBlocks = kManyAtOnce<Wide> ? kGradientBlocks : Launch::kMinBlocks;

template <int kValue>
using IntTag = std::integral_constant<int, kValue>;

// Computes the gradients of a tile of the input. A pixel of a cell contributes to four pixels of input:
//
//     input    A B      cell of D    d d     each d contributes to A, B, C and D, through four taps
//              C D                   d d
//
// For each row of cells, a thread adds up what its column contributes to two rows of input, the row above and the
// cells' own, and in each to two columns. The sum for the row above, to which the previous row of cells also
// contributed, is then complete. At the end, threads add up the columns of two neighbouring cells for each pixel of the
// tile.
template <typename T, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, kGradientBlocks)
    depthwise_input_gradient_cells_kernel(ScoreOperands<T> operands, Source gradients, T* __restrict__ grad_input,
                                          UpsamplingShape<int32_t> shape, GradientTiles tiles) {
  using Wide = WideOf<T>;
  auto* weights = dynamic_shared_memory<PixelWeights<Wide>>();  // [stride_h, stride_w]
  const int32_t stride_h = shape.rows.stride, stride_w = shape.columns.stride, cell_pixels = stride_h * stride_w;
  Wide* sums = reinterpret_cast<Wide*>(weights + cell_pixels);  // [rows, 2 (own, left), cells, pitch]
  const int32_t side = tiles.cells * tiles.pitch;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < 2 * tiles.rows * side; e += Launch::kBlockThreads) {
    sums[e] = 0;
  }

  const auto tile = tiles.tile();
  const int64_t sample_input = tile.sample * static_cast<int64_t>(shape.input.elements);
  const T* plane = operands.input + sample_input + tile.input * static_cast<int64_t>(shape.input.channel_stride);
  const WeightsInMemory<T, int32_t> in_memory{operands.weight, shape.rows.kernel, shape.columns.kernel};
  // Columns are counted from the tile's first column, which need not exist.
  const int32_t first_x = tile.column * stride_w - shape.columns.origin;
  const int32_t first = first_x < 0 ? -first_x & ~(tiles.group - 1) : 0;
  const int32_t in_cells = tiles.cells * stride_w, to_edge = shape.columns.pixels - first_x;
  const int32_t end = in_cells < to_edge ? in_cells : to_edge;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % Launch::kWarpThreads;
  for (int32_t k = 0; k < shape.multiplier; ++k) {
    const int32_t c = tile.input * shape.multiplier + k;
    __syncthreads();  // other threads may still be reading the previous weights
    for (int32_t e = static_cast<int32_t>(threadIdx.x); e < cell_pixels; e += Launch::kBlockThreads) {
      int32_t e_column;
      const int32_t e_row = shape.columns.by_stride.divide(e, &e_column);
      weights[e] = PixelWeights<Wide>::load(in_memory, shape, c, e_row, e_column);
    }
    __syncthreads();

    const Wide bias = operands.bias_of(c);
    for (int32_t warp = first + static_cast<int32_t>(threadIdx.x) - lane; warp < end; warp += Launch::kBlockThreads) {
      int32_t phase;
      const int32_t cell = shape.columns.by_stride.divide(warp + lane, &phase), x = first_x + warp + lane;
      const bool works = warp + lane < end && x >= 0;
      const ClassColumn<T> column(plane, shape, tile.column + cell, phase);
      auto source = gradients.column(shape, tile.sample, c, tile.row * stride_h - shape.rows.origin, x);
      Wide* group_sums = sums + cell * tiles.pitch + phase / tiles.group;
      Wide to_row[2] = {};
      InputPair<Wide> above;
      if (works) above = column.read(shape, tile.row - 1);
      for (int32_t r = 0; r <= tiles.rows && tile.row + r <= shape.rows.windows; ++r) {
        Wide to_above[2] = {to_row[0], to_row[1]};
        to_row[0] = to_row[1] = 0;
        if (works) {
          const InputPair<Wide> row = column.read(shape, tile.row + r);
          const int32_t y = (tile.row + r) * stride_h - shape.rows.origin;
          // Adds what kRows rows contribute, each of which sees two rows of input.
          const auto send = [&](auto count, int32_t p) {
            constexpr int kRows = decltype(count)::value;
            const auto weight = [&](int q) { return weights[(p + q) * stride_w + phase]; };
            Wide gradient[kRows];
            source.read([&](int q) { return weight(q).score(bias, row, true, above, true); }, gradient);
            source.advance(kRows);
#pragma unroll
            for (int q = 0; q < kRows; ++q) {
              const PixelWeights<Wide> taps = weight(q);
#pragma unroll
              for (int s = 0; s < 2; ++s) {
                to_row[s] = multiply_add(gradient[q], taps.tap[0][s], to_row[s]);
                to_above[s] = multiply_add(gradient[q], taps.tap[1][s], to_above[s]);
              }
            }
          };
          if (tiles.whole_taps && row.exists && above.exists && y >= 0 && y + stride_h <= shape.rows.pixels) {
            int32_t p = 0;
            if (kManyAtOnce<Wide> && source.plain) {
              if constexpr (Source::kRowsAtOnce > 4) {
#pragma unroll 1
                for (; p + Source::kRowsAtOnce <= stride_h; p += Source::kRowsAtOnce)
                  send(IntTag<Source::kRowsAtOnce>{}, p);
              }
#pragma unroll 1
              for (; p + 4 <= stride_h; p += 4) send(IntTag<4>{}, p);
#pragma unroll 1
              for (; p + 2 <= stride_h; p += 2) send(IntTag<2>{}, p);
            }
#pragma unroll 1
            for (; p < stride_h; ++p) send(IntTag<1>{}, p);
          } else {
#pragma unroll 1
            for (int32_t p = 0; p < stride_h; ++p, source.advance(1)) {
              if (!shape.rows.contains(y + p)) continue;
              const bool has_row = tap_row(shape.rows, p, 0) >= 0, has_above = tap_row(shape.rows, p, 1) >= 0;
              const PixelWeights<Wide> weight = weights[p * stride_w + phase];
              const auto score = [&](int) {
                return weight.score(bias, row, has_row && row.exists, above, has_above && above.exists);
              };
              Wide gradient[1];
              source.read(score, gradient);
#pragma unroll
              for (int s = 0; s < 2; ++s) {
                if (has_row) to_row[s] = multiply_add(gradient[0], weight.tap[0][s], to_row[s]);
                if (has_above) to_above[s] = multiply_add(gradient[0], weight.tap[1][s], to_above[s]);
              }
            }
          }
          above = row;
        }
        if (r == 0) continue;
        tiles.add(column.taps.own >= 0 ? to_above[0] : Wide{0}, column.taps.left >= 0 ? to_above[1] : Wide{0},
                  cell < tiles.cells ? group_sums + (2 * r - 2) * side : nullptr, side);
      }
    }
  }
  __syncthreads();

  const int32_t columns = tiles.cells - 1, groups = tiles.groups;
#pragma unroll 1
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < tiles.rows * columns; e += Launch::kBlockThreads) {
    int32_t in_tile;
    const int32_t r = tiles.by_columns.divide(e, &in_tile);
    const Place<int32_t> at{tile.input, tile.row + r, tile.column + in_tile};
    if (at.row >= shape.rows.windows || at.column >= shape.columns.windows) continue;
    const Wide* own = sums + 2 * r * side + in_tile * tiles.pitch;
    const Wide* left = own + side + tiles.pitch;
    Wide sum = 0;
#pragma unroll 1
    for (int32_t p = 0; p < groups; ++p) sum += own[p];
#pragma unroll 1
    for (int32_t p = 0; p < groups; ++p) sum += left[p];
    grad_input[sample_input + shape.input.element(at)] = Element<T>::narrow(sum);
  }
}

// Where blocks store their parts of the gradients of weights and bias. Either pointer may be null.
template <typename Wide>
struct PartArrays {
  Wide* __restrict__ weight;  // [parts, channels, kernel_h, kernel_w]: a part for each block that shares a weight
  Wide* __restrict__ bias;    // [parts, units, channels]; units of a plane or, in channels_last, of all planes
  Divisor<int32_t> by_unit_blocks;
  int32_t unit_blocks, units;
};

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

// ---- Any geometry ---------------------------------------------------------------------------------------------------

// Computes the gradient of one score at a time.
template <typename T, typename Index, typename Source>
struct AnyScoreGradients {
  using Wide = WideOf<T>;
  ScoreOperands<T> operands;
  Source gradients;
  UpsamplingShape<Index> shape;

  __device__ __forceinline__ WeightsInMemory<T, Index> weights() const {
    return {operands.weight, shape.rows.kernel, shape.columns.kernel};
  }

  __device__ __forceinline__ Wide at(Index sample, const Place<Index>& place) const {
    const auto score = [&](int) {
      const T* input = operands.input + sample * static_cast<int64_t>(shape.input.elements);
      return sum_of_taps(shape, input, weights(), place, operands.bias_of(place.channel));
    };
    Wide gradient[1];
    gradients.column(shape, sample, place.channel, place.row, place.column).read(score, gradient);
    return gradient[0];
  }
};

// `runs` counts the elements of a sample of the input.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_input_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, T* __restrict__ grad_input,
                                    WarpRuns<Index> runs) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> from = shape.input.place(lane.element);
  Wide sum = 0;
  for (Index k = 0; k < shape.multiplier; ++k) {
    const Index c = from.channel * shape.multiplier + k;
    for (Index i = shape.rows.first_tap(from.row); shape.rows.has_tap(from.row, i); ++i) {
      for (Index j = shape.columns.first_tap(from.column); shape.columns.has_tap(from.column, j); ++j) {
        const Place<Index> at{c, shape.rows.pixel(from.row, i), shape.columns.pixel(from.column, j)};
        sum = multiply_add(scores.at(lane.sample, at), scores.weights().at(c, i, j), sum);
      }
    }
  }
  grad_input[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = Element<T>::narrow(sum);
}

// Each block has one weight. Its threads go through the input pixels that the weight multiplies.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_weight_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, WideOf<T>* __restrict__ part,
                                     Index samples, Divisor<Index> by_width, Divisor<Index> by_kernel_w,
                                     Divisor<Index> by_kernel_h) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  Index i, j;
  const Index c = by_kernel_h.divide(by_kernel_w.divide(static_cast<Index>(blockIdx.x), &j), &i);
  const Index pixels = shape.rows.windows * shape.columns.windows;
  double sum = 0;
  for (Index n = 0; n < samples; ++n) {
    for (Index e = static_cast<Index>(threadIdx.x); e < pixels; e += Launch::kBlockThreads) {
      Place<Index> from{shape.by_multiplier.quotient(c), 0, 0};
      from.row = by_width.divide(e, &from.column);
      const Place<Index> at{c, shape.rows.pixel(from.row, i), shape.columns.pixel(from.column, j)};
      if (!shape.rows.contains(at.row) || !shape.columns.contains(at.column)) continue;
      const T* input = scores.operands.input + n * static_cast<int64_t>(shape.input.elements);
      sum += scores.at(n, at) * Element<T>::widen(input[shape.input.element(from)]);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = static_cast<Wide>(sum);
}

// Each block has one class.
template <typename T, typename Index, typename Source>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_bias_gradient_kernel(AnyScoreGradients<T, Index, Source> scores, WideOf<T>* __restrict__ part,
                                   Index samples, Divisor<Index> by_output_width) {
  using Wide = WideOf<T>;
  const UpsamplingShape<Index>& shape = scores.shape;
  Place<Index> at{static_cast<Index>(blockIdx.x), 0, 0};
  double sum = 0;
  for (Index n = 0; n < samples; ++n) {
    for (Index e = static_cast<Index>(threadIdx.x); e < shape.rows.pixels * shape.columns.pixels;
         e += Launch::kBlockThreads) {
      at.row = by_output_width.divide(e, &at.column);
      sum += scores.at(n, at);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = static_cast<Wide>(sum);
}

}  // namespace segext
