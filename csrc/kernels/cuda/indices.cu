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

int64_t pooled_elements(const IndexUnpoolParams& params) {
  return params.samples * params.channels * params.pooled_pixels;
}

int64_t map_elements(const IndexUnpoolParams& params) { return params.samples * params.channels * params.pixels; }

IndexUnpoolShape shape_of(const IndexUnpoolParams& params, int64_t elements) {
  return {PlaneOrder(params.channels, params.pixels, params.channels_last),
          PlaneOrder(params.channels, params.pooled_pixels, params.channels_last), Divisor<int64_t>(params.channels),
          elements};
}

// Fills `winners`: for each pixel, the number (from 1 on) of the last pooled element of its plane that names it, or 0.
CudaStatus find_winners(const IndexUnpoolParams& params, CudaStream stream) {
  const auto bytes = static_cast<size_t>(map_elements(params)) * sizeof(uint32_t);
  const CudaStatus status = cleared(cudaMemsetAsync(params.winners, 0, bytes, stream));
  if (status != cudaSuccess) return status;
  return launch(index_unpool_bid_kernel<uint32_t>, pooled_elements(params), stream, params.indices, params.winners,
                shape_of(params, pooled_elements(params)));
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
  const int64_t elements = map_elements(params);
  if (elements == 0) return cudaSuccess;
  const CudaStatus status = find_winners(params, stream);
  if (status != cudaSuccess) return status;
  return for_float_bits(params.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    return launch(index_unpool_kernel<Bits>, elements, stream, static_cast<const Bits*>(params.values), params.winners,
                  static_cast<Bits*>(params.map), shape_of(params, elements));
  });
}

CudaStatus index_unpool_backward_cuda(const IndexUnpoolParams& params, CudaStream stream) {
  const int64_t elements = pooled_elements(params);
  if (elements == 0) return cudaSuccess;
  const CudaStatus status = find_winners(params, stream);
  if (status != cudaSuccess) return status;
  return for_float_bits(params.type, [&](auto type) {
    using Bits = typename decltype(type)::Type;
    return launch(index_unpool_backward_kernel<Bits>, elements, stream, static_cast<const Bits*>(params.grad_map),
                  params.indices, params.winners, static_cast<Bits*>(params.grad_values), shape_of(params, elements));
  });
}

}  // namespace segext
