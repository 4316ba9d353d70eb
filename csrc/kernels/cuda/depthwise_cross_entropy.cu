// Launches the cross-entropy of upsampled scores: losses, then their totals.
#include <optional>

#include "depthwise_cross_entropy.cuh"

namespace segext {
namespace {

int64_t output_pixels(const Upsampling& g) { return g.output_height * g.output_width; }

template <typename T>
std::optional<ScoreCellLaunch> divide_softmax(const Upsampling& g) {
  if (!fits_int32(g, Addend{})) return std::nullopt;
  return divide_score_cells<T>(g, kSoftmaxCells, Launch::kMaxSharedBytes - kBlockReduceBytes);
}

// The number of blocks that compute the softmax of every pixel.
template <typename T>
int64_t softmax_blocks(const Upsampling& g) {
  const auto division = divide_softmax<T>(g);
  return blocks_for(division ? division->cells.threads : warp_run_threads(g.samples, output_pixels(g)));
}

// Launches the kernel that computes the loss of every pixel.
template <typename T>
CudaStatus launch_losses(const DepthwiseCrossEntropyParams& params, CudaStream stream) {
  using Wide = WideOf<T>;
  const Upsampling& g = params.scores.geometry;
  const ScoreOperands<T> operands(params.scores);
  const Targets targets{params.target, params.ignored, g.channels};
  const Criterion<Wide> criterion(params.criterion, g.channels);
  const LossWriter<Wide> writer{static_cast<Wide*>(params.losses), static_cast<Normalizer<Wide>*>(params.normalizers),
                                params.labels, params.totals.parts};
  if (const auto division = divide_softmax<T>(g)) {
    const auto kernel = g.channels_last ? depthwise_cross_entropy_cells_kernel<T, true>
                                        : depthwise_cross_entropy_cells_kernel<T, false>;
    return launch_with_shared_memory(kernel, division->cells.threads, division->shared_bytes, stream, operands, targets,
                                     criterion, writer, UpsamplingShape<int32_t>(g), division->cells.cells,
                                     division->chunk);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    return launch(depthwise_cross_entropy_kernel<T, Index>, warp_run_threads(g.samples, output_pixels(g)), stream,
                  operands, targets, criterion, writer, UpsamplingShape<Index>(g), Divisor<Index>(g.output_width),
                  warp_runs<Index>(g.samples, output_pixels(g)));
  });
}

template <typename T>
CudaStatus launch_type(const DepthwiseCrossEntropyParams& params, CudaStream stream) {
  using Wide = WideOf<T>;
  const LossTotals& totals = params.totals;
  const CudaStatus status = launch_losses<T>(params, stream);
  if (status != cudaSuccess) return status;
  return launch(depthwise_cross_entropy_totals_kernel<Wide>, Launch::kBlockThreads, stream, totals.parts,
                softmax_blocks<T>(params.scores.geometry), static_cast<Wide*>(totals.loss),
                static_cast<Wide*>(totals.weight));
}

}  // namespace

int64_t depthwise_cross_entropy_cuda_parts(const Upsampling& geometry, ElementType type) {
  int64_t parts = 0;
  for_float(type, [&](auto element) {
    parts = softmax_blocks<typename decltype(element)::Type>(geometry);
    return cudaSuccess;
  });
  return parts;
}

CudaStatus depthwise_cross_entropy_cuda(const DepthwiseCrossEntropyParams& params, CudaStream stream) {
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

}  // namespace segext
