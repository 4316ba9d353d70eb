// Launches max-pooling with switches.
#include <limits>
#include <optional>

#include "../max_pool2d.h"
#include "max_pool2d.cuh"
#include "max_pool2d_overlaps.cuh"

namespace segext {
namespace {

template <typename T>
MaxLimits<WideOf<T>> max_limits(bool relu) {
  using Wide = WideOf<T>;
  using Limits = std::numeric_limits<Wide>;
  const Wide lowest = Limits::has_infinity ? static_cast<Wide>(-Limits::infinity()) : Limits::lowest();
  return {relu ? Wide{0} : lowest, lowest};
}

// Whether the kernels with 128-bit accesses may process runs of one vector of T: its codes must be whole bytes, and the
// pointers must be aligned.
template <typename T>
bool vectors_fit(const MaxPool2dParams& params) {
  const PoolGeometry& g = params.geometry;
  const int run_bits = Vector<T>::kLanes * g.bits;
  return run_is_bytes(Vector<T>::kLanes, g.bits) && codes_are_flat(g) && fits_int32(g) &&
         threads_fit_int32(g.samples * pooled_elements(g) / Vector<T>::kLanes) &&
         is_aligned(params.input, kVectorBytes) && is_aligned(params.output, kVectorBytes) &&
         is_aligned(params.codes, run_bits / 8);
}

// Whether the kernels for 3x3 windows with stride 2 may run: every window must begin inside the map or in the padding
// before it.
bool overlaps_fit(const PoolGeometry& g) {
  return windows_are_3x3_overlaps(g) && 2 * (g.pooled_height - 1) < g.height + g.window.padding_h &&
         2 * (g.pooled_width - 1) < g.width + g.window.padding_w && fits_int32(g) &&
         threads_fit_int32(g.samples * pooled_elements(g));
}

template <typename T>
CudaStatus launch_overlap_pairs(const MaxPool2dParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t pairs = (pooled_elements(g) + 1) / 2;
  return launch(max_pool2d_overlap_pairs_kernel<T>, g.samples * pairs, stream, static_cast<const T*>(params.input),
                static_cast<T*>(params.output), params.codes, PoolShape<int32_t>(g), Divisor<int32_t>(pairs),
                static_cast<int32_t>(g.samples * pairs), max_limits<T>(params.relu));
}

// Nothing if vectors do not fit.
template <typename T>
std::optional<CudaStatus> launch_vectors(const MaxPool2dParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<T>::kLanes;
  const auto run = [&](auto kernel, int64_t vectors) {
    const int64_t threads = g.samples * pooled_elements(g) / kLanes;
    return launch(kernel, threads, stream, static_cast<const T*>(params.input), static_cast<T*>(params.output),
                  params.codes, PoolShape<int32_t>(g), Divisor<int32_t>(vectors), static_cast<int32_t>(threads),
                  max_limits<T>(params.relu));
  };
  if (!vectors_fit<T>(params)) return std::nullopt;
  if (!g.channels_last && overlaps_fit(g)) {
    if (g.window.padding_w != 1 || g.width != 2 * g.pooled_width || g.pooled_width % kLanes != 0) return std::nullopt;
    return run(max_pool2d_overlaps_kernel<T>, g.pooled_width / kLanes);
  }
  if (!g.channels_last) {
    if (windows_of(g) != Windows::kTiles || g.pooled_width % kLanes != 0 || g.width % kLanes != 0) return std::nullopt;
    return run(max_pool2d_tile_rows_kernel<T>, g.pooled_width / kLanes);
  }
  if (g.channels % kLanes != 0) return std::nullopt;
  return for_windows(windows_of(g), [&](auto windows) {
    return run(max_pool2d_channels_last_kernel<T, decltype(windows)::value>, g.channels / kLanes);
  });
}

template <typename T, typename Index, Windows kWindows>
CudaStatus launch_elements(const MaxPool2dParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  return launch(max_pool2d_kernel<T, Index, kWindows>, warp_run_threads(g.samples, pooled_elements(g)), stream,
                static_cast<const T*>(params.input), static_cast<T*>(params.output), params.codes, PoolShape<Index>(g),
                warp_runs<Index>(g.samples, pooled_elements(g)), max_limits<T>(params.relu));
}

}  // namespace

CudaStatus max_pool2d_cuda(const MaxPool2dParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if (g.samples * pooled_elements(g) == 0) return cudaSuccess;
  return for_element(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    if constexpr (kHasVectorKernels<T>) {
      if (const auto status = launch_vectors<T>(params, stream)) return *status;
      if (!g.channels_last && overlaps_fit(g)) return launch_overlap_pairs<T>(params, stream);
      if (fits_int32(g)) {
        return for_windows(windows_of(g), [&](auto windows) {
          return launch_elements<T, int32_t, decltype(windows)::value>(params, stream);
        });
      }
    }
    return for_index(g, [&](auto index) {
      return launch_elements<T, typename decltype(index)::Type, Windows::kAny>(params, stream);
    });
  });
}

}  // namespace segext
