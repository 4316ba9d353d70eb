// Launches scatter: chooses the kernel by windows, memory order and alignment.
#include <optional>

#include "../scatter.h"
#include "scatter.cuh"
#include "scatter_overlaps.cuh"

namespace segext {
namespace {

// A thread takes too long over a cell of more pixels than this; one thread per pixel is then faster.
constexpr int64_t kMaxCellPixels = 64;

template <typename T>
ScatterArrays<T> arrays_of(const ScatterParams& params) {
  using Bits = RawBitsOf<T>;
  return {static_cast<const T*>(params.values),
          params.codes,
          static_cast<T*>(params.map),
          {static_cast<const Bits*>(params.relu_output), static_cast<Bits>(infinity_bits(params.type))}};
}

// NCHW: the rows of the full map are whole vectors, and those of the pooled map whole half vectors.
template <typename Bits>
bool rows_fit_vectors(const ScatterParams& params) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<Bits>::kLanes;
  return g.width % kLanes == 0 && g.pooled_width % (kLanes / 2) == 0 && codes_are_flat(g) && fits_int32(g) &&
         threads_fit_int32(g.samples * map_elements(g) / kLanes) && is_aligned(params.map, kVectorBytes) &&
         is_aligned(params.values, kVectorBytes / 2) && is_aligned(params.relu_output, kVectorBytes / 2);
}

// channels_last: the channels are whole vectors, and the codes of a vector are whole bytes.
template <typename T>
bool channels_fit_vectors(const ScatterParams& params) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<T>::kLanes;
  return g.channels % kLanes == 0 && run_is_bytes(kLanes, g.bits) && codes_are_flat(g) && fits_int32(g) &&
         threads_fit_int32(g.samples * map_elements(g) / kLanes) && is_aligned(params.map, kVectorBytes) &&
         is_aligned(params.values, kVectorBytes) && is_aligned(params.relu_output, kVectorBytes) &&
         is_aligned(params.codes, kLanes * g.bits / 8);
}

template <typename Bits>
CudaStatus launch_tile_rows(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t vectors = g.width / Vector<Bits>::kLanes;
  const int64_t tile_rows = ceil_divide(g.height, 2);
  const int64_t threads = g.samples * g.channels * tile_rows * vectors;
  return launch(scatter_tile_rows_kernel<Bits>, threads, stream, arrays_of<Bits>(params), PoolShape<int32_t>(g),
                Divisor<int32_t>(vectors), Divisor<int32_t>(tile_rows), static_cast<int32_t>(threads));
}

template <typename Bits>
CudaStatus launch_tiles(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t tile_rows = ceil_divide(g.height, 2), tile_columns = ceil_divide(g.width, 2);
  const int64_t threads = g.samples * g.channels * tile_rows * tile_columns;
  const bool paired = g.width % 2 == 0 && is_aligned(params.map, sizeof(Pair<Bits>));
  return launch(scatter_tiles_kernel<Bits>, threads, stream, arrays_of<Bits>(params), PoolShape<int32_t>(g),
                Divisor<int32_t>(tile_columns), Divisor<int32_t>(tile_rows), Divisor<int32_t>(g.channels),
                static_cast<int32_t>(threads), paired);
}

template <typename Bits>
CudaStatus launch_windows(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t vectors = g.channels / Vector<Bits>::kLanes;
  const int64_t cell_rows = ceil_divide(g.height + g.window.padding_h, g.window.stride_h);
  const int64_t cell_columns = ceil_divide(g.width + g.window.padding_w, g.window.stride_w);
  const int64_t threads = g.samples * cell_rows * cell_columns * vectors;
  const auto kernel =
      windows_are_2x2_tiles(g) ? scatter_channels_last_tiles_kernel<Bits> : scatter_channels_last_windows_kernel<Bits>;
  return launch(kernel, threads, stream, arrays_of<Bits>(params), PoolShape<int32_t>(g), Divisor<int32_t>(vectors),
                Divisor<int32_t>(cell_rows), Divisor<int32_t>(cell_columns), static_cast<int32_t>(threads));
}

// Windows that do not overlap; nothing if there is no kernel for these.
template <typename Bits>
std::optional<CudaStatus> launch_disjoint(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if constexpr (kHasVectorKernels<Bits>) {
    const bool cells =
        g.window.dilation_h == 1 && g.window.dilation_w == 1 && g.window.stride_h <= kMaxCellPixels / g.window.stride_w;
    if (g.channels_last && cells && channels_fit_vectors<Bits>(params)) return launch_windows<Bits>(params, stream);
    if (!g.channels_last && windows_are_2x2_tiles(g) && rows_fit_vectors<Bits>(params)) {
      return launch_tile_rows<Bits>(params, stream);
    }
  }
  if (!g.channels_last && windows_are_2x2_tiles(g) && fits_int32(g) && threads_fit_int32(g.samples * map_elements(g))) {
    return launch_tiles<Bits>(params, stream);
  }
  return std::nullopt;
}

template <typename T, int kTiles>
CudaStatus launch_overlap_rows(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t per_row = ceil_divide(overlap_tiles(g.width, g.window.padding_w), kTiles);
  const int64_t per_column = ceil_divide(overlap_tiles(g.height, g.window.padding_h), kOverlapTileRows);
  const int64_t threads = g.samples * g.channels * per_row * per_column;
  return launch(scatter_overlaps_kernel<T, kTiles>, threads, stream, arrays_of<T>(params), PoolShape<int32_t>(g),
                Divisor<int32_t>(per_row), Divisor<int32_t>(per_column), Divisor<int32_t>(g.channels),
                static_cast<int32_t>(threads));
}

// Sums over windows for which windows_are_3x3_overlaps holds; nothing if there is no kernel for these.
template <typename T>
std::optional<CudaStatus> launch_overlaps(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if (g.channels_last) {
    if (channels_fit_vectors<T>(params)) {
      const int64_t vectors = g.channels / Vector<T>::kLanes;
      const int64_t tile_rows = overlap_tiles(g.height, g.window.padding_h);
      const int64_t tile_columns = overlap_tiles(g.width, g.window.padding_w);
      const int64_t threads = g.samples * tile_rows * tile_columns * vectors;
      return launch(scatter_channels_last_overlaps_kernel<T>, threads, stream, arrays_of<T>(params),
                    PoolShape<int32_t>(g), Divisor<int32_t>(vectors), Divisor<int32_t>(tile_rows),
                    Divisor<int32_t>(tile_columns), static_cast<int32_t>(threads));
    }
  } else if (fits_int32(g) && threads_fit_int32(g.samples * map_elements(g))) {
    constexpr int kTiles = Vector<T>::kLanes / 2;
    const bool vectors =
        g.window.padding_w == 1 && rows_fit_vectors<T>(params) && is_aligned(params.codes, kTiles * g.bits / 8);
    return vectors ? launch_overlap_rows<T, kTiles>(params, stream) : launch_overlap_rows<T, 1>(params, stream);
  }
  return std::nullopt;
}

// Any windows. T is the element type for sums, otherwise the raw bits of an element.
template <typename T, Overlap kOverlap>
CudaStatus launch_any(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if constexpr (kHasVectorKernels<T>) {
    if (g.channels_last && channels_fit_vectors<T>(params)) {
      const int64_t vectors = g.channels / Vector<T>::kLanes;
      const int64_t threads = g.samples * g.height * g.width * vectors;
      return launch(scatter_channels_last_kernel<T, kOverlap>, threads, stream, arrays_of<T>(params),
                    PoolShape<int32_t>(g), Divisor<int32_t>(vectors), Divisor<int32_t>(g.height),
                    static_cast<int32_t>(threads));
    }
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    return launch(scatter_kernel<T, kOverlap, Index>, warp_run_threads(g.samples, map_elements(g)), stream,
                  arrays_of<T>(params), PoolShape<Index>(g), warp_runs<Index>(g.samples, map_elements(g)));
  });
}

}  // namespace

CudaStatus scatter_cuda(const ScatterParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if (g.samples * map_elements(g) == 0) return cudaSuccess;
  const bool disjoint = windows_are_disjoint(g.window);
  if (params.overlap == Overlap::kAdd && !disjoint) {
    return for_float(params.type, [&](auto type) {
      using T = typename decltype(type)::Type;
      if constexpr (kHasVectorKernels<T>) {
        if (windows_are_3x3_overlaps(g) && pooled_elements(g) > 0) {  // its kernels always read a window
          if (const auto status = launch_overlaps<T>(params, stream)) return *status;
        }
      }
      return launch_any<T, Overlap::kAdd>(params, stream);
    });
  }
  return for_float_bits(params.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    if (disjoint) {
      if (const auto status = launch_disjoint<Bits>(params, stream)) return *status;
    }
    return launch_any<Bits, Overlap::kKeepLast>(params, stream);
  });
}

}  // namespace segext
