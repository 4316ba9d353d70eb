// Launches gather.
#include <algorithm>
#include <optional>

#include "../gather.h"
#include "gather.cuh"

namespace segext {
namespace {

template <typename Bits>
ReluMask<Bits> relu_mask(const GatherParams& params) {
  return {static_cast<const Bits*>(params.relu_output), static_cast<Bits>(infinity_bits(params.type))};
}

// Whether the kernels with 128-bit accesses may work in runs of `run` elements: the innermost dimension of the maps
// must be whole vectors and runs, and the pointers must be aligned.
template <typename Bits>
bool vectors_fit(const GatherParams& params, int run) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<Bits>::kLanes;
  const int64_t run_bytes = run * static_cast<int64_t>(sizeof(Bits));
  return windows_of(g) == Windows::kTiles && codes_are_flat(g) && fits_int32(g) &&
         (g.channels_last ? g.channels % run == 0 : g.pooled_width % run == 0 && g.width % kLanes == 0) &&
         threads_fit_int32(g.samples * pooled_elements(g) / run) && is_aligned(params.map, kVectorBytes) &&
         is_aligned(params.values, run_bytes) && is_aligned(params.relu_output, run_bytes) &&
         is_aligned(params.codes, std::max(run * g.bits / 8, 1));
}

template <typename Bits, typename Kernel>
CudaStatus launch_vectors(Kernel kernel, const GatherParams& params, int run, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  const int64_t threads = g.samples * pooled_elements(g) / run;
  return launch(kernel, threads, stream, static_cast<const Bits*>(params.map), params.codes,
                static_cast<Bits*>(params.values), relu_mask<Bits>(params), PoolShape<int32_t>(g),
                Divisor<int32_t>((g.channels_last ? g.channels : g.pooled_width) / run), static_cast<int32_t>(threads));
}

// Nothing if vectors do not fit.
template <typename Bits>
std::optional<CudaStatus> launch_vectors(const GatherParams& params, CudaStream stream) {
  constexpr int kLanes = Vector<Bits>::kLanes;
  if (vectors_fit<Bits>(params, kLanes)) {
    const auto kernel =
        params.geometry.channels_last ? gather_channels_last_tiles_kernel<Bits> : gather_tile_rows_kernel<Bits, kLanes>;
    return launch_vectors<Bits>(kernel, params, kLanes, stream);
  }
  if (!params.geometry.channels_last && vectors_fit<Bits>(params, kLanes / 2)) {
    return launch_vectors<Bits>(gather_tile_rows_kernel<Bits, kLanes / 2>, params, kLanes / 2, stream);
  }
  return std::nullopt;
}

}  // namespace

CudaStatus gather_cuda(const GatherParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if (g.samples * pooled_elements(g) == 0) return cudaSuccess;
  const bool only_winners = params.overlap == Overlap::kKeepLast && !windows_are_disjoint(g.window);
  return for_float_bits(params.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    if constexpr (kHasVectorKernels<Bits>) {
      if (const auto status = launch_vectors<Bits>(params, stream)) return *status;
    }
    return for_index(g, [&](auto index) {
      using Index = typename decltype(index)::Type;
      return launch(gather_kernel<Bits, Index>, warp_run_threads(g.samples, pooled_elements(g)), stream,
                    static_cast<const Bits*>(params.map), params.codes, static_cast<Bits*>(params.values),
                    relu_mask<Bits>(params), PoolShape<Index>(g), warp_runs<Index>(g.samples, pooled_elements(g)),
                    only_winners);
    });
  });
}

}  // namespace segext
