// Launches the kernels of upsampling_gradients.cuh, for every Source of gradients: chooses among them by convolution
// kernel and size, and divides their work.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "upsampling_gradients.cuh"

namespace segext {

// The largest number of output columns in a tile. A thread goes down one column for every 256 of them.
inline constexpr int64_t kTileColumns = 1024;

// The shared memory that a tile's sums may take, so that a multiprocessor has room for a few blocks.
inline constexpr int64_t kTileBytes = 16 * 1024;

// The number of input rows in a tile; it has one more row of cells. Smaller where there would otherwise be too few
// tiles.
inline int64_t tile_rows(const Upsampling& g) {
  constexpr int64_t kFewest = 4, kMost = 16, kEnoughTiles = 1024;
  return std::clamp(g.samples * input_channels(g) * g.height / kEnoughTiles, kFewest, kMost);
}

// The tiles, and the launch parameters for one block per tile.
struct TileLaunch {
  GradientTiles tiles;
  int64_t threads, shared_bytes;
};

// Returns nothing if the convolution kernel or the sizes rule tiles out.
template <typename T>
std::optional<TileLaunch> divide_tiles(const Upsampling& g) {
  using Wide = WideOf<T>;
  if (!fits_int32(g, Addend{}) || !spans_two_strides(g) || g.stride_w > kTileColumns / 2) return std::nullopt;
  int64_t group = 1;
  while (group < Launch::kWarpThreads && g.stride_w % (2 * group) == 0) group *= 2;
  const int64_t groups = g.stride_w / group, pitch = groups | 1, rows = tile_rows(g);
  const int64_t cell_bytes = rows * 2 * pitch * static_cast<int64_t>(sizeof(Wide));
  const int64_t most = std::max<int64_t>(std::min(kTileColumns / g.stride_w, kTileBytes / cell_bytes), 2);
  const int64_t strips = std::max<int64_t>((g.width + most - 2) / (most - 1), 1),
                columns = ceil_divide(g.width, strips);
  const int64_t cells = columns + 1;
  const int64_t shared_bytes =
      g.stride_h * g.stride_w * static_cast<int64_t>(sizeof(PixelWeights<Wide>)) + cells * cell_bytes;
  const int64_t segments = ceil_divide(g.height, rows);
  const int64_t inputs = input_channels(g), blocks = g.samples * inputs * segments * strips;
  if (shared_bytes > Launch::kMaxSharedBytes || blocks > std::numeric_limits<int32_t>::max()) return std::nullopt;
  GradientTiles tiles{};
  tiles.rows = static_cast<int32_t>(rows);
  tiles.cells = static_cast<int32_t>(cells);
  tiles.group = static_cast<int32_t>(group);
  tiles.groups = static_cast<int32_t>(groups);
  tiles.pitch = static_cast<int32_t>(pitch);
  tiles.whole_taps = g.kernel_h == 2 * g.stride_h && g.dilation_h == 1;
  tiles.by_strips = Divisor<int32_t>(strips);
  tiles.by_segments = Divisor<int32_t>(segments);
  tiles.by_inputs = Divisor<int32_t>(inputs);
  tiles.by_columns = Divisor<int32_t>(columns);
  return TileLaunch{tiles, blocks * Launch::kBlockThreads, shared_bytes};
}

// The number of cells over which a thread sums the gradients of weights, about equal for all threads. The more cells,
// the fewer parts there are. But a large GPU runs some 10^5 threads at once and wants a multiple of that.
inline int64_t part_cells(const Upsampling& g, int64_t planes, int64_t runs) {
  constexpr int64_t kFewest = 4, kMost = 64, kEnoughThreads = 1 << 18;
  const int64_t wanted = std::clamp(planes * runs * g.output_height / kPhases / kEnoughThreads, kFewest, kMost);
  const int64_t cells = end_cell(g) - first_cell(g), threads = std::max((cells + wanted / 2) / wanted, int64_t{1});
  return ceil_divide(cells, threads);
}

// Divides planes, each of one class, for the gradients of weights and bias. Returns nothing if the convolution kernel
// or the sizes rule it out.
inline std::optional<CellLaunch> divide_parts(const Upsampling& g) {
  if (!fits_int32(g, Addend{}) || !spans_two_strides(g) || g.stride_w > kMaxCellStride) return std::nullopt;
  const int64_t columns = g.origin_w % g.stride_w + g.output_width;
  const int64_t runs = round_up(columns, g.stride_w), planes = g.samples * g.channels;
  return divide_cells(g, planes, runs, part_cells(g, planes, runs), kPhases);
}

inline int64_t units_of(const Upsampling& g) { return ceil_divide(g.stride_h, kPhases); }

// The number of blocks that share a unit of cells.
inline int64_t unit_blocks(const Upsampling& g, const CellLaunch& division) {
  return division.threads / Launch::kBlockThreads / (g.samples * g.channels * units_of(g));
}

// The numbers of parts that launch_parts stores.
inline GradientParts count_parts(const Upsampling& g) {
  const auto division = divide_parts(g);
  if (!division) return {1, 1};
  const int64_t parts = g.samples * unit_blocks(g, *division);
  return {parts, parts * units_of(g)};
}

template <typename T, typename Source>
CudaStatus launch_input(const UpsamplingOperands& data, const UpsamplingGradients& out, const Source& gradients,
                        CudaStream stream) {
  const Upsampling& g = data.geometry;
  T* grad_input = static_cast<T*>(out.input);
  const ScoreOperands<T> operands(data);
  if (const auto division = divide_tiles<T>(g)) {
    return launch_with_shared_memory(depthwise_input_gradient_cells_kernel<T, Source>, division->threads,
                                     division->shared_bytes, stream, operands, gradients, grad_input,
                                     UpsamplingShape<int32_t>(g), division->tiles);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    const AnyScoreGradients<T, Index, Source> scores{operands, gradients, UpsamplingShape<Index>(g)};
    return launch(depthwise_input_gradient_kernel<T, Index, Source>, warp_run_threads(g.samples, input_elements(g)),
                  stream, scores, grad_input, warp_runs<Index>(g.samples, input_elements(g)));
  });
}

template <typename T, typename Source>
CudaStatus launch_parts(const UpsamplingOperands& data, const UpsamplingGradients& out, const Source& gradients,
                        CudaStream stream) {
  using Wide = WideOf<T>;
  const Upsampling& g = data.geometry;
  Wide* weight = static_cast<Wide*>(out.weight);
  Wide* bias = static_cast<Wide*>(out.bias);
  const ScoreOperands<T> operands(data);
  if (const auto division = divide_parts(g)) {
    const int64_t blocks = unit_blocks(g, *division), shared_bytes = kPhases * 4 * Launch::kBlockThreads * sizeof(Wide);
    const PartArrays<Wide> parts{weight, bias, Divisor<int32_t>(blocks), static_cast<int32_t>(blocks),
                                 static_cast<int32_t>(units_of(g))};
    return launch_with_shared_memory(depthwise_weight_gradient_cells_kernel<T, Source>, division->threads, shared_bytes,
                                     stream, operands, gradients, parts, UpsamplingShape<int32_t>(g), division->cells);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    const AnyScoreGradients<T, Index, Source> scores{operands, gradients, UpsamplingShape<Index>(g)};
    const auto samples = static_cast<Index>(g.samples);
    CudaStatus status = cudaSuccess;
    if (weight != nullptr) {
      const int64_t blocks = g.channels * g.kernel_h * g.kernel_w;
      status =
          launch(depthwise_weight_gradient_kernel<T, Index, Source>, blocks * Launch::kBlockThreads, stream, scores,
                 weight, samples, Divisor<Index>(g.width), Divisor<Index>(g.kernel_w), Divisor<Index>(g.kernel_h));
    }
    if (status != cudaSuccess || bias == nullptr) return status;
    return launch(depthwise_bias_gradient_kernel<T, Index, Source>, g.channels * Launch::kBlockThreads, stream, scores,
                  bias, samples, Divisor<Index>(g.output_width));
  });
}

// Computes every gradient that is wanted, i.e. not null in `out`.
template <typename T, typename Source>
CudaStatus launch_gradients(const UpsamplingOperands& data, const UpsamplingGradients& out, const Source& gradients,
                            CudaStream stream) {
  CudaStatus status = cudaSuccess;
  if (out.input != nullptr) status = launch_input<T>(data, out, gradients, stream);
  const bool has_parts = out.weight != nullptr || out.bias != nullptr;
  return status == cudaSuccess && has_parts ? launch_parts<T>(data, out, gradients, stream) : status;
}

}  // namespace segext
