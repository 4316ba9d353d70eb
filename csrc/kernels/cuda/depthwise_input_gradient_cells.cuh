// The gradient of the input of upsampling, from any Source (see upsampling_gradients.cuh), for convolution kernels that
// span at most two strides, e.g. all bilinear ones.
//
//   depthwise_input_gradient_cells_kernel
#pragma once

#include <type_traits>

#include "gradient_cells.cuh"

namespace segext {

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

}  // namespace segext
