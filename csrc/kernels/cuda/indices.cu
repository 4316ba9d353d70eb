// Launches the kernels for stock's int64 indices.
#include "../indices.h"
#include "../repack_codes.h"
#include "indices.cuh"

namespace segext {
namespace {

// Calls `function` with the index type, the geometry's PoolShape, the division of its pooled elements among warps, and
// the number of threads.
template <typename Function>
CudaStatus for_pooled_elements(const PoolGeometry& g, const Function& function) {
  if (g.samples * pooled_elements(g) == 0) return cudaSuccess;
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    return function(index, PoolShape<Index>(g), warp_runs<Index>(g.samples, pooled_elements(g)),
                    warp_run_threads(g.samples, pooled_elements(g)));
  });
}

int64_t pooled_elements(const IndexedMaps& maps) { return maps.samples * maps.channels * maps.pooled_pixels; }

int64_t full_elements(const IndexedMaps& maps) { return maps.samples * maps.channels * maps.pixels; }

IndexUnpoolShape shape_of(const IndexedMaps& maps, int64_t elements) {
  return {PlaneOrder(maps.channels, maps.pixels, maps.channels_last),
          PlaneOrder(maps.channels, maps.pooled_pixels, maps.channels_last), Divisor<int64_t>(maps.channels), elements};
}

// Fills `winners`: for each pixel, the number (from 1 on) of the last pooled element of its plane that names it, or 0.
CudaStatus find_winners(const IndexedMaps& maps, uint32_t* winners, CudaStream stream) {
  const auto bytes = static_cast<size_t>(full_elements(maps)) * sizeof(uint32_t);
  const CudaStatus status = cleared(cudaMemsetAsync(winners, 0, bytes, stream));
  if (status != cudaSuccess) return status;
  return launch(index_unpool_bid_kernel, pooled_elements(maps), stream, maps.indices, winners,
                shape_of(maps, pooled_elements(maps)));
}

}  // namespace

CudaStatus indices_from_codes_cuda(const IndicesFromCodesParams& params, CudaStream stream) {
  return for_pooled_elements(params.geometry, [&](auto index, const auto& shape, const auto& runs, int64_t threads) {
    return launch(indices_from_codes_kernel<typename decltype(index)::Type>, threads, stream, params.codes,
                  params.indices, shape, runs);
  });
}

CudaStatus codes_from_indices_cuda(const CodesFromIndicesParams& params, CudaStream stream) {
  return for_pooled_elements(params.geometry, [&](auto index, const auto& shape, const auto& runs, int64_t threads) {
    return launch(codes_from_indices_kernel<typename decltype(index)::Type>, threads, stream, params.indices,
                  params.codes, params.invalid, shape, runs);
  });
}

CudaStatus repack_codes_cuda(const RepackCodesParams& params, CudaStream stream) {
  const PoolGeometry& g = params.geometry;
  return for_pooled_elements(g, [&](auto index, const auto& shape, const auto& runs, int64_t threads) {
    using Index = typename decltype(index)::Type;
    return launch(repack_codes_kernel<Index>, threads, stream, params.codes, params.repacked, shape,
                  Order<Index>(g.channels, g.pooled_height, g.pooled_width, !g.channels_last), runs);
  });
}

CudaStatus index_unpool_cuda(const IndexUnpoolParams& params, CudaStream stream) {
  const IndexedMaps& maps = params.maps;
  const int64_t elements = full_elements(maps);
  if (elements == 0) return cudaSuccess;
  const CudaStatus status = find_winners(maps, params.winners, stream);
  if (status != cudaSuccess) return status;
  return for_float_bits(maps.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    return launch(index_unpool_kernel<Bits>, elements, stream, static_cast<const Bits*>(params.values), params.winners,
                  static_cast<Bits*>(params.map), shape_of(maps, elements));
  });
}

CudaStatus index_unpool_backward_cuda(const IndexUnpoolBackwardParams& params, CudaStream stream) {
  const IndexedMaps& maps = params.maps;
  const int64_t elements = pooled_elements(maps);
  if (elements == 0) return cudaSuccess;
  const CudaStatus status = find_winners(maps, params.winners, stream);
  if (status != cudaSuccess) return status;
  return for_float_bits(maps.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    return launch(index_unpool_backward_kernel<Bits>, elements, stream, static_cast<const Bits*>(params.grad_map),
                  maps.indices, params.winners, static_cast<Bits*>(params.grad_values), shape_of(maps, elements));
  });
}

}  // namespace segext
