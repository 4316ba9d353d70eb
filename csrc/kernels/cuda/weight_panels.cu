// Launches the packing of weights, in the order of the kernel that will read them.
#include "weight_panels.cuh"

namespace segext {
namespace {

template <typename T, typename Packed, typename Layout>
CudaStatus launch_layout(const WeightPanelParams& params, CudaStream stream) {
  const int64_t groups = (params.outputs + Layout::kOutputs - 1) / Layout::kOutputs;
  const int64_t elements = groups * Layout::kOutputs * cuda_panel_channels(params.channels) * kPanelTaps;
  return launch(pack_weight_panels_kernel<T, Packed, Layout>, elements, stream, params.weight,
                static_cast<Packed*>(params.panels), params.channels, params.outputs, elements,
                Layout(params.channels));
}

}  // namespace

CudaStatus pack_weight_panels_cuda(const WeightPanelParams& params, CudaStream stream) {
  bool by_tiles = false;
  const CudaStatus status = find_tile_products(params.type, &by_tiles);
  if (status != cudaSuccess) return status;
  return for_float(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    if constexpr (sizeof(T) == 2) {
      if (by_tiles) return launch_layout<T, T, FragmentWeights>(params, stream);
    }
    return launch_layout<T, typename Element<T>::Wide, LaneWeights>(params, stream);
  });
}

}  // namespace segext
