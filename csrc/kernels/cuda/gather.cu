// Launches gather.
#include <limits>

#include "../gather.h"
#include "gather.cuh"

namespace segext {
namespace {

template <typename Bits>
ReluMask<Bits> relu_mask(const GatherParams& params) {
  return {static_cast<const Bits*>(params.relu_output), static_cast<Bits>(infinity_bits(params.type))};
}

// Whether the kernels with 128-bit accesses may work in runs of one vector: vectors that fill what is innermost, and
// aligned pointers.
template <typename Bits>
bool vectors_fit(const GatherParams& params) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<Bits>::kLanes;
  return windows_of(g) == Windows::kBlocks && codes_are_flat(g) && fits_int32(g) &&
         (g.channels_last ? g.channels % kLanes == 0 : g.pooled_width % kLanes == 0 && g.width % kLanes == 0) &&
         g.samples * pooled_elements(g) / kLanes < std::numeric_limits<int32_t>::max() &&
         is_aligned(params.map, kVectorBytes) && is_aligned(params.values, kVectorBytes) &&
         is_aligned(params.relu_output, kVectorBytes) && is_aligned(params.codes, kLanes * g.bits / 8);
}

template <typename Bits>
CudaStatus launch_vectors(const GatherParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  constexpr int kLanes = Vector<Bits>::kLanes;
  const int64_t threads = g.samples * pooled_elements(g) / kLanes;
  const auto kernel = g.channels_last ? gather_channels_last_blocks_kernel<Bits> : gather_blocks_kernel<Bits>;
  const int64_t vectors = (g.channels_last ? g.channels : g.pooled_width) / kLanes;
  return launch(kernel, threads, stream, static_cast<const Bits*>(params.map), params.codes,
                static_cast<Bits*>(params.values), relu_mask<Bits>(params), PoolShape<int32_t>(g),
                Divisor<int32_t>(vectors), static_cast<int32_t>(threads));
}

}  // namespace

CudaStatus gather_cuda(const GatherParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  if (g.samples * pooled_elements(g) == 0) return cudaSuccess;
  const bool only_winners = params.overlap == Overlap::kKeepLast && !windows_are_disjoint(g.window);
  return for_float_bits(params.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    if constexpr (kHasVectorKernels<Bits>) {
      if (vectors_fit<Bits>(params)) return launch_vectors<Bits>(params, stream);
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
