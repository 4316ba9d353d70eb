// Launches the fused unpooling and 3x3 convolution. Half types run on tensor cores from compute capability 8.0 on;
// other types, and half types on older devices, run on the FP32 or FP64 cores.
#include <algorithm>
#include <limits>

#include "pooled_to_channels_last.cuh"
#include "unpool_conv2d.cuh"
#include "unpool_conv2d_cells.cuh"
#include "unpool_conv2d_tiles.cuh"

namespace segext {
namespace {

using Params = UnpoolConv2dParams;

template <typename T>
UnpoolConvArrays<T> arrays_of(const Params& params) {
  return {static_cast<const T*>(params.input), params.codes, static_cast<const T*>(params.bias),
          static_cast<T*>(params.output)};
}

// Launches one block for each group of outputs of each tile of each sample.
template <typename... Parameters, typename... Arguments>
CudaStatus launch_tiles(void (*kernel)(Parameters...), const Params& params, int64_t rows, int64_t columns,
                        int64_t groups, int64_t shared_bytes, CudaStream stream, bool channels_last,
                        const Arguments&... arguments) {
  const int64_t samples = params.geometry.pool.samples, most = Launch::kMaxBlocks;
  const bool fits = params.geometry.pool.channels <= std::numeric_limits<int32_t>::max() && groups <= most / columns &&
                    rows <= most / (groups * columns) && samples <= most / (rows * groups * columns);
  if (!fits) return cudaErrorInvalidConfiguration;
  const BlockTiles tiles{Divisor<int32_t>(groups), Divisor<int32_t>(columns), Divisor<int32_t>(rows)};
  return launch_with_shared_memory(kernel, samples * rows * columns * groups * Launch::kBlockThreads, shared_bytes,
                                   stream, UnpoolConvShape(params.geometry, channels_last), tiles, arguments...);
}

// Two strips, one below the other, both compute a row of cells, so long strips save work. But a large GPU has room for
// about 256 blocks, so strips are shortened while there are fewer.
template <typename T>
CudaStatus launch_cells(const Params& params, CudaStream stream) {
  using Traits = CellTraits<T>;
  constexpr int32_t kFewestTiles = 2, kMostTiles = 8;
  constexpr int64_t kEnoughBlocks = 256;
  const UnpoolConv& g = params.geometry;
  const auto strips = [](int64_t size, int64_t padding, int64_t pixels) {
    return std::max<int64_t>(1, ceil_divide(size + padding - Traits::kOverlap, pixels - Traits::kOverlap));
  };
  const int64_t columns = strips(g.output_width, g.padding_w, Traits::kColumns);
  const int64_t groups = ceil_divide(g.outputs, Traits::Layout::kOutputs);
  int32_t tiles = kMostTiles;
  const auto rows = [&] { return strips(g.output_height, g.padding_h, int64_t{tiles} * Traits::kRows); };
  while (tiles > kFewestTiles && g.pool.samples * rows() * columns * groups < kEnoughBlocks) tiles /= 2;
  return launch_tiles(unpool_conv2d_cells_kernel<T>, params, rows(), columns, groups, cell_shared_bytes<T>(), stream,
                      g.pool.channels_last, arrays_of<T>(params),
                      static_cast<const typename Traits::Wide*>(params.panels),
                      static_cast<int32_t>(ceil_divide(g.pool.channels, Traits::kChannels)), tiles);
}

// Whether the channels of a cell can be loaded as vectors: they must be neighbours in memory, with runs of codes that
// are whole bytes.
template <typename T>
bool vectors_fit(const Params& params) {
  const PoolGeometry& g = params.geometry.pool;
  return g.channels_last && g.channels % TileTraits::kLanes == 0 && is_aligned(params.input, kVectorBytes) &&
         is_aligned(params.codes, TileTraits::kLanes * g.bits / 8);
}

template <typename T>
bool wide_results_fit(const Params& params, bool channels_last) {
  const UnpoolConv& g = params.geometry;
  return channels_last ? g.outputs % Vector<T>::kLanes == 0 && is_aligned(params.output, kVectorBytes)
                       : g.output_width % 2 == 0 && is_aligned(params.output, 2 * sizeof(T));
}

// Converts values and codes to channels_last. *converted becomes the same call on the converted ones.
CudaStatus to_channels_last(const Params& params, CudaStream stream, Params* converted) {
  using Bits = uint16_t;
  using Tile = CellTile<Bits>;
  const PoolGeometry& pool = params.geometry.pool;
  const int64_t cells = pool.pooled_height * pool.pooled_width;
  const int64_t cell_tiles = ceil_divide(cells, Tile::kCells);
  const int64_t channel_tiles = ceil_divide(pool.channels, Tile::kChannels);
  auto* values = static_cast<Bits*>(params.channels_last_scratch);
  auto* codes = reinterpret_cast<uint8_t*>(values + pool.samples * pool.channels * cells);
  *converted = params;
  converted->input = values;
  converted->codes = codes;
  converted->geometry.pool.channels_last = true;
  if (pool.samples > Launch::kMaxBlocks / (cell_tiles * channel_tiles)) return cudaErrorInvalidConfiguration;
  return launch_with_shared_memory(pooled_to_channels_last_kernel<Bits>,
                                   pool.samples * channel_tiles * cell_tiles * Launch::kBlockThreads, sizeof(Tile),
                                   stream, static_cast<const Bits*>(params.input), params.codes, values, codes,
                                   CellTiles{Divisor<int32_t>(cell_tiles), Divisor<int32_t>(channel_tiles),
                                             pool.channels, cells, pool.sample_bytes});
}

// `channels_last` is the memory order of the result.
template <typename T>
CudaStatus launch_products(const Params& params, bool channels_last, CudaStream stream) {
  using Traits = TileTraits;
  const UnpoolConv& g = params.geometry;
  const auto kernel =
      vectors_fit<T>(params) ? unpool_conv2d_tiles_kernel<T, true> : unpool_conv2d_tiles_kernel<T, false>;
  return launch_tiles(kernel, params, ceil_divide(g.output_height, Traits::kPixels),
                      ceil_divide(g.output_width, Traits::kPixels), ceil_divide(g.outputs, Traits::kOutputs),
                      Traits::kSharedBytes, stream, channels_last, arrays_of<T>(params),
                      static_cast<const Vector<T>*>(params.panels),
                      static_cast<int32_t>(ceil_divide(g.pool.channels, Traits::kChannels)),
                      wide_results_fit<T>(params, channels_last));
}

}  // namespace

CudaStatus unpool_conv2d_cuda(const Params& params, CudaStream stream) {
  const UnpoolConv& g = params.geometry;
  if (g.pool.samples * g.outputs * g.output_height * g.output_width == 0) return cudaSuccess;
  return for_products(params.type, [&](auto type, auto by_tiles) {
    using T = typename decltype(type)::Type;
    if constexpr (decltype(by_tiles)::value) {
      if (params.channels_last_scratch == nullptr) return launch_products<T>(params, g.pool.channels_last, stream);
      Params converted;
      const CudaStatus status = to_channels_last(params, stream, &converted);
      return status == cudaSuccess ? launch_products<T>(converted, g.pool.channels_last, stream) : status;
    } else {
      return launch_cells<T>(params, stream);
    }
  });
}

}  // namespace segext
