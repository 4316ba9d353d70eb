// Launches the gradients of upsampled scores' cross-entropy: normalizers of every pixel, then each gradient wanted.
#include "depthwise_cross_entropy_backward.cuh"

namespace segext {
namespace {

using Params = DepthwiseCrossEntropyBackwardParams;

// Cells that a thread adds up the gradients of weights over: the more, the fewer parts there are.
constexpr int64_t kMostCells = 64;

// Of a tile: what the sums of 8 rows of float32 take leaves room for a few blocks on a multiprocessor.
template <typename Wide>
constexpr int64_t kTileRows = 32 / static_cast<int64_t>(sizeof(Wide));

// Tiles, and what launching a block for each of them takes.
struct TileLaunch {
  GradientTiles tiles;
  int64_t threads, shared_bytes;
};

// None where kernel or sizes do not allow it.
template <typename T>
std::optional<TileLaunch> divide_tiles(const Upsampling& g) {
  using Wide = typename Element<T>::Wide;
  const int64_t cells = Launch::kBlockThreads / g.stride_w;
  if (!fits_int32(g, Addend{}) || !spans_two_strides(g) || cells < 2) return std::nullopt;
  const int64_t pitch = g.stride_w | 1;
  const int64_t shared_bytes = g.stride_h * g.stride_w * static_cast<int64_t>(sizeof(PixelWeights<Wide>)) +
                               kTileRows<Wide> * 2 * cells * pitch * static_cast<int64_t>(sizeof(Wide));
  const int64_t strips = (g.width + cells - 2) / (cells - 1);
  const int64_t segments = (g.height + kTileRows<Wide> - 1) / kTileRows<Wide>;
  const int64_t inputs = g.channels / g.multiplier, blocks = g.samples * inputs * segments * strips;
  if (shared_bytes > Launch::kMaxSharedBytes || blocks > std::numeric_limits<int32_t>::max()) return std::nullopt;
  const GradientTiles tiles{static_cast<int32_t>(kTileRows<Wide>),
                            static_cast<int32_t>(cells),
                            static_cast<int32_t>(pitch),
                            Divisor<int32_t>(strips),
                            Divisor<int32_t>(segments),
                            Divisor<int32_t>(inputs),
                            Divisor<int32_t>(cells - 1)};
  return TileLaunch{tiles, blocks * Launch::kBlockThreads, shared_bytes};
}

// The division of planes, each of one class, for the gradients of weights and bias. None where kernel or sizes do not
// allow it.
std::optional<CellLaunch> divide_parts(const Upsampling& g) {
  if (!fits_int32(g, Addend{}) || !spans_two_strides(g) || g.stride_w > kMaxCellStride) return std::nullopt;
  const int64_t columns = g.origin_w % g.stride_w + g.output_width;
  const int64_t runs = (columns + g.stride_w - 1) / g.stride_w * g.stride_w, planes = g.samples * g.channels;
  return divide_cells(g, planes, runs, cells_per_thread(g, planes, runs, kMostCells), true);
}

int64_t units_of(const Upsampling& g) { return (g.stride_h + kPhases - 1) / kPhases; }

// Blocks that share a unit of cells.
int64_t unit_blocks(const Upsampling& g, const CellLaunch& division) {
  return division.threads / Launch::kBlockThreads / (g.samples * g.channels * units_of(g));
}

template <typename T>
CudaStatus launch_input(const Params& params, const ScoreGradients<typename Element<T>::Wide>& gradients,
                        CudaStream stream) {
  const Upsampling& g = params.scores.geometry;
  T* grad_input = static_cast<T*>(params.gradients.input);
  const ScoreOperands<T> operands(params.scores);
  if (const auto division = divide_tiles<T>(g)) {
    return launch_with_shared_memory(depthwise_input_gradient_cells_kernel<T>, division->threads,
                                     division->shared_bytes, stream, operands, gradients, grad_input,
                                     UpsamplingShape<int32_t>(g), division->tiles);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    const AnyScoreGradients<T, Index> scores{operands, gradients, UpsamplingShape<Index>(g)};
    const int64_t elements = g.channels / g.multiplier * g.height * g.width;
    return launch(depthwise_input_gradient_kernel<T, Index>, warp_run_threads(g.samples, elements), stream, scores,
                  grad_input, warp_runs<Index>(g.samples, elements));
  });
}

template <typename T>
CudaStatus launch_parts(const Params& params, const ScoreGradients<typename Element<T>::Wide>& gradients,
                        CudaStream stream) {
  using Wide = typename Element<T>::Wide;
  const Upsampling& g = params.scores.geometry;
  Wide* weight = static_cast<Wide*>(params.gradients.weight);
  Wide* bias = static_cast<Wide*>(params.gradients.bias);
  const ScoreOperands<T> operands(params.scores);
  if (const auto division = divide_parts(g)) {
    const int64_t blocks = unit_blocks(g, *division), shared_bytes = kPhases * 4 * Launch::kBlockThreads * sizeof(Wide);
    const PartArrays<Wide> parts{weight, bias, Divisor<int32_t>(blocks), static_cast<int32_t>(blocks),
                                 static_cast<int32_t>(units_of(g))};
    return launch_with_shared_memory(depthwise_weight_gradient_cells_kernel<T>, division->threads, shared_bytes, stream,
                                     operands, gradients, parts, UpsamplingShape<int32_t>(g), division->cells);
  }
  return for_index(g, [&](auto index) {
    using Index = typename decltype(index)::Type;
    const AnyScoreGradients<T, Index> scores{operands, gradients, UpsamplingShape<Index>(g)};
    const auto samples = static_cast<Index>(g.samples);
    CudaStatus status = cudaSuccess;
    if (weight != nullptr) {
      const int64_t blocks = g.channels * g.kernel_h * g.kernel_w;
      status = launch(depthwise_weight_gradient_kernel<T, Index>, blocks * Launch::kBlockThreads, stream, scores,
                      weight, samples, Divisor<Index>(g.width), Divisor<Index>(g.kernel_w), Divisor<Index>(g.kernel_h));
    }
    if (status != cudaSuccess || bias == nullptr) return status;
    return launch(depthwise_bias_gradient_kernel<T, Index>, g.channels * Launch::kBlockThreads, stream, scores, bias,
                  samples, Divisor<Index>(g.output_width));
  });
}

template <typename T>
CudaStatus launch_type(const Params& params, CudaStream stream) {
  using Wide = typename Element<T>::Wide;
  const LossGradients<Wide> grad_loss{static_cast<const Wide*>(params.grad_loss), params.one_value};
  auto* normalizers = static_cast<Normalizer<Wide>*>(params.normalizers);
  const NormalizerWriter<T> writer{normalizers, grad_loss};
  CudaStatus status = launch_softmax<T>(params.scores, params.criterion, writer, stream);
  const Criterion<Wide> criterion(params.criterion, params.scores.geometry.channels);
  const ScoreGradients<Wide> gradients{criterion, grad_loss, normalizers};
  if (status == cudaSuccess && params.gradients.input != nullptr) status = launch_input<T>(params, gradients, stream);
  const bool has_parts = params.gradients.weight != nullptr || params.gradients.bias != nullptr;
  return status == cudaSuccess && has_parts ? launch_parts<T>(params, gradients, stream) : status;
}

}  // namespace

GradientParts depthwise_cross_entropy_backward_cuda_parts(const Upsampling& g) {
  const auto division = divide_parts(g);
  if (!division) return {1, 1};
  const int64_t parts = g.samples * unit_blocks(g, *division);
  return {parts, parts * units_of(g)};
}

CudaStatus depthwise_cross_entropy_backward_cuda(const Params& params, CudaStream stream) {
  return for_float(params.scores.type,
                   [&](auto type) { return launch_type<typename decltype(type)::Type>(params, stream); });
}

CudaStatus sum_parts_cuda(const SumPartsParams& params, CudaStream stream) {
  return for_float(params.type, [&](auto type) {
    using T = typename decltype(type)::Type;
    return launch(sum_parts_kernel<T>, params.size, stream, static_cast<const typename Element<T>::Wide*>(params.parts),
                  static_cast<T*>(params.total), params.count, params.size);
  });
}

}  // namespace segext
