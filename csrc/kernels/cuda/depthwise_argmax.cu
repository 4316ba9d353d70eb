// Launches upsampling's label map: chooses the kernel by kernel size and stride.
#include <algorithm>

#include "depthwise_argmax.cuh"

namespace segext {
namespace {

template <typename T>
LabelArrays<T> arrays_of(const DepthwiseArgmaxParams& params) {
  const DepthwiseConvTranspose2dParams& scores = params.scores;
  return {static_cast<const T*>(scores.input), static_cast<const T*>(scores.weight), static_cast<const T*>(scores.bias),
          params.labels, static_cast<T*>(params.best)};
}

template <typename T, typename Index>
CudaStatus launch_pixels(const DepthwiseArgmaxParams& params, CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  const int64_t pixels = g.output_height * g.output_width;
  return launch(depthwise_argmax_kernel<T, Index>, warp_run_threads(g.samples, pixels), stream, arrays_of<T>(params),
                UpsamplingShape<Index>(g), Divisor<Index>(g.output_width), warp_runs<Index>(g.samples, pixels));
}

template <typename T>
CudaStatus launch_type(const DepthwiseArgmaxParams& params, CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  if (!fits_int32(g, Addend{})) return launch_pixels<T, int64_t>(params, stream);
  const int64_t class_bytes = g.kernel_w * static_cast<int64_t>(sizeof(ColumnWeights<typename Element<T>::Wide>));
  if (spans_two_strides(g) && class_bytes <= Launch::kMaxSharedBytes) {
    if (const auto cells = divide_cells(g, g.samples, g.output_width, kLabelCells, true)) {
      const int64_t classes = std::min(g.channels, Launch::kMaxSharedBytes / class_bytes);
      const auto kernel =
          g.channels_last ? depthwise_argmax_cells_kernel<T, true> : depthwise_argmax_cells_kernel<T, false>;
      return launch_with_shared_memory(kernel, cells->threads, classes * class_bytes, stream, arrays_of<T>(params),
                                       UpsamplingShape<int32_t>(g), cells->cells,
                                       ClassChunk{static_cast<int32_t>(classes), Divisor<int32_t>(g.kernel_w)});
    }
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
