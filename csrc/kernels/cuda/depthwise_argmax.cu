// Launches the label map of upsampled scores. Chooses the CUDA kernel by convolution kernel and stride.
#include "depthwise_argmax.cuh"

namespace segext {
namespace {

template <typename T>
LabelArrays<T> arrays_of(const DepthwiseArgmaxParams& params) {
  return {params.labels, static_cast<T*>(params.best)};
}

template <typename T, typename Index>
CudaStatus launch_pixels(const DepthwiseArgmaxParams& params, CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  const int64_t pixels = g.output_height * g.output_width;
  return launch(depthwise_argmax_kernel<T, Index>, warp_run_threads(g.samples, pixels), stream,
                ScoreOperands<T>(params.scores), arrays_of<T>(params), UpsamplingShape<Index>(g),
                Divisor<Index>(g.output_width), warp_runs<Index>(g.samples, pixels));
}

template <typename T>
CudaStatus launch_type(const DepthwiseArgmaxParams& params, CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  if (!fits_int32(g, Addend{})) return launch_pixels<T, int64_t>(params, stream);
  if (const auto division = divide_score_cells<T>(g, kLabelCells, Launch::kMaxSharedBytes)) {
    const auto kernel =
        g.channels_last ? depthwise_argmax_cells_kernel<T, true> : depthwise_argmax_cells_kernel<T, false>;
    return launch_with_shared_memory(kernel, division->cells.threads, division->shared_bytes, stream,
                                     ScoreOperands<T>(params.scores), arrays_of<T>(params), UpsamplingShape<int32_t>(g),
                                     division->cells.cells, division->chunk);
  }
  return launch_pixels<T, int32_t>(params, stream);
}

}  // namespace

CudaStatus depthwise_argmax_cuda(const DepthwiseArgmaxParams& params, CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  if (g.samples * g.output_height * g.output_width == 0) return cudaSuccess;
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
