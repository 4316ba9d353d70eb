// Launches the packing of weights into the order of the kernel that will read them.
#include "weight_panels.cuh"

namespace segext {
namespace {

template <typename T, typename Packed, typename Layout>
CudaStatus launch_layout(const PackWeightPanelsParams& params, CudaStream stream) {
  const int64_t groups = ceil_divide(params.outputs, Layout::kOutputs);
  const int64_t elements = groups * Layout::kOutputs * cuda_panel_channels(params.channels) * kPanelTaps;
  return launch(pack_weight_panels_kernel<T, Packed, Layout>, elements, stream, params.weight,
                static_cast<Packed*>(params.panels), params.channels, params.outputs, elements,
                Layout(params.channels));
}

}  // namespace

CudaStatus find_mma(ElementType type, bool* found) {
  // The architecture that the code was compiled for matters, not the device: code that a newer device compiles from
  // older PTX lacks the tile products.
  constexpr int kFirstVersion = 80;  // compute capability 8.0, as for ptx::kHasMma
  thread_local int known_device = -1;
  thread_local bool known = false;
  *found = false;
  if (type != ElementType::kFloat16 && type != ElementType::kBFloat16) return cudaSuccess;
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess && device != known_device) {
    cudaFuncAttributes attributes{};
    status = cudaFuncGetAttributes(&attributes, pack_weight_panels_kernel<Float16, Float16, FragmentWeights>);
    if (status == cudaSuccess) {
      known = attributes.ptxVersion >= kFirstVersion;
      known_device = device;
    }
  }
  *found = status == cudaSuccess && known;
  return cleared(status);
}

CudaStatus pack_weight_panels_cuda(const PackWeightPanelsParams& params, CudaStream stream) {
  return for_products(params.type, [&](auto type, auto by_tiles) {
    using T = typename decltype(type)::Type;
    if constexpr (decltype(by_tiles)::value) {
      return launch_layout<T, T, FragmentWeights>(params, stream);
    } else {
      using Wide = WideOf<T>;
      return launch_layout<T, Wide, LaneWeights<Wide>>(params, stream);
    }
  });
}

}  // namespace segext
