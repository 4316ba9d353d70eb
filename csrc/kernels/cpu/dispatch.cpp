// Selects the instruction set of the CPU kernels, once per process, and defines how their work is divided.
#include "../dense_conv_transpose2d.h"
#include "../depthwise_conv_transpose2d_backward.h"
#include "../depthwise_cross_entropy.h"
#include "../extremes.h"
#include "../gather.h"
#include "../indices.h"
#include "../max_pool2d.h"
#include "../repack_codes.h"
#include "../scatter.h"
#include "../unpool_conv2d.h"
#include "capability.h"
#include "code_strips.h"
#include "dense_bands.h"
#include "gradient_bands.h"
#include "index_units.h"
#include "rows.h"
#include "unpool_bands.h"

// Every kernel and its parameters. Each is compiled once per instruction set, in a namespace of that name.
#define SEGEXT_KERNELS(X)                                                        \
  X(max_pool2d, MaxPool2dParams)                                                 \
  X(scatter, ScatterParams)                                                      \
  X(gather, GatherParams)                                                        \
  X(repack_codes, RepackCodesParams)                                             \
  X(indices_from_codes, IndicesFromCodesParams)                                  \
  X(codes_from_indices, CodesFromIndicesParams)                                  \
  X(index_unpool, IndexUnpoolParams)                                             \
  X(index_unpool_backward, IndexUnpoolBackwardParams)                            \
  X(depthwise_conv_transpose2d, DepthwiseConvTranspose2dParams)                  \
  X(depthwise_argmax, DepthwiseArgmaxParams)                                     \
  X(depthwise_conv_transpose2d_backward, DepthwiseConvTranspose2dBackwardParams) \
  X(sum_parts, SumPartsParams)                                                   \
  X(pack_tap_panels, TapPanelParams)                                             \
  X(dense_conv_transpose2d, DenseConvTranspose2dParams)                          \
  X(pack_weight_panels, PackWeightPanelsParams)                                  \
  X(unpack_weight_panels, UnpackWeightPanelsParams)                              \
  X(unpool_conv2d, UnpoolConv2dParams)                                           \
  X(pack_grad_panels, UnpoolConv2dBackwardParams)                                \
  X(unpool_conv2d_backward, UnpoolConv2dBackwardParams)                          \
  X(depthwise_cross_entropy, DepthwiseCrossEntropyParams)                        \
  X(depthwise_cross_entropy_backward, DepthwiseCrossEntropyBackwardParams)       \
  X(extremes, ExtremesParams)

#define SEGEXT_DECLARE(kernel, Params) void kernel(const Params&, int64_t begin, int64_t end);

namespace segext::baseline {
SEGEXT_KERNELS(SEGEXT_DECLARE)
}
#if defined(SEGEXT_X86_LEVELS)
namespace segext::avx2 {
SEGEXT_KERNELS(SEGEXT_DECLARE)
}
namespace segext::avx512 {
SEGEXT_KERNELS(SEGEXT_DECLARE)
}
#endif

namespace segext {
namespace {

template <class Kernel>
Kernel* pick([[maybe_unused]] Kernel* baseline, [[maybe_unused]] Kernel* avx2, [[maybe_unused]] Kernel* avx512) {
  switch (cpu_capability()) {
    case CpuCapability::kAvx512:
      return avx512;
    case CpuCapability::kAvx2:
      return avx2;
    case CpuCapability::kBaseline:
      break;
  }
  return baseline;
}

#if defined(SEGEXT_X86_LEVELS)
#define SEGEXT_PICK(kernel) pick(baseline::kernel, avx2::kernel, avx512::kernel)
#else
#define SEGEXT_PICK(kernel) pick(baseline::kernel, baseline::kernel, baseline::kernel)
#endif

// The entry point of a kernel: runs it at the level in use.
#define SEGEXT_DISPATCH(kernel, Params)                                 \
  void kernel##_cpu(const Params& params, int64_t begin, int64_t end) { \
    static const auto at_level = SEGEXT_PICK(kernel);                   \
    at_level(params, begin, end);                                       \
  }

// Work that takes roughly as long as moving one element, the unit of Work::elements: kProducts products in a transposed
// convolution that mixes channels; the nine products of a pooled value for kUnpooledOutputs outputs of unpool_conv2d,
// or for kUnpooledGradients in its backward pass.
constexpr int64_t kProducts = 16, kUnpooledOutputs = 4, kUnpooledGradients = 2;

Work weight_panels_work(int64_t channels, int64_t outputs) {
  return {channels, panels_of(outputs) * kPanel * kPanelTaps};
}

Work gradient_work(const Upsampling& g, bool all_channels) {
  const GradientBands bands(g, all_channels);
  return {g.samples * bands.groups * bands.count, bands.rows * bands.elements};
}

GradientParts gradient_parts(const Upsampling& g, bool all_channels) {
  const int64_t bands = g.samples * GradientBands(g, all_channels).count;
  return {bands, bands};
}

Work index_work(const IndexedMaps& maps) {
  return {maps.samples * index_channel_groups(maps), maps.pixels * (maps.channels_last ? kIndexChannels : 1)};
}

}  // namespace

SEGEXT_KERNELS(SEGEXT_DISPATCH)

Work max_pool2d_work(const MaxPool2dParams& params) {
  const PoolGeometry& g = params.geometry;
  const int64_t rows = Rows(g).planes * g.pooled_height;
  const int64_t group = rows_per_code_byte(g);
  return {g.samples * ceil_div(rows, group), group * Rows(g).row * smaller(g.window.stride_h, g.height)};
}

Work scatter_work(const ScatterParams& params) {
  const PoolGeometry& g = params.geometry;
  return {g.samples * Rows(g).planes * g.height, Rows(g).row};
}

Work gather_work(const GatherParams& params) {
  const PoolGeometry& g = params.geometry;
  return {g.samples * Rows(g).planes * g.pooled_height, Rows(g).row * smaller(g.window.stride_h, g.height)};
}

Work repack_codes_work(const RepackCodesParams& params) {
  const CodeStrips strips(params.geometry);
  return {params.geometry.samples * strips.count, strips.rows * strips.sources};
}

Work indices_from_codes_work(const IndicesFromCodesParams& params) {
  return {params.geometry.samples * index_blocks(params.geometry), kIndexBlock};
}

Work codes_from_indices_work(const CodesFromIndicesParams& params) {
  return {params.geometry.samples * index_blocks(params.geometry), kIndexBlock};
}

Work index_unpool_work(const IndexUnpoolParams& params) { return index_work(params.maps); }

Work index_unpool_backward_work(const IndexUnpoolBackwardParams& params) { return index_work(params.maps); }

Work depthwise_conv_transpose2d_work(const DepthwiseConvTranspose2dParams& params) {
  const Upsampling& g = params.operands.geometry;
  const int64_t planes = g.channels_last ? 1 : g.channels, depth = g.channels_last ? g.channels : 1;
  return {g.samples * planes * g.output_height, g.output_width * depth};
}

Work depthwise_argmax_work(const DepthwiseArgmaxParams& params) {
  const Upsampling& g = params.scores.geometry;
  return {g.samples * g.output_height, g.output_width * g.channels};
}

Work depthwise_conv_transpose2d_backward_work(const DepthwiseConvTranspose2dBackwardParams& params) {
  return gradient_work(params.operands.geometry, params.operands.geometry.channels_last);
}

GradientParts depthwise_conv_transpose2d_backward_cpu_parts(const Upsampling& geometry) {
  return gradient_parts(geometry, geometry.channels_last);
}

Work sum_parts_work(const SumPartsParams& params) {
  return {ceil_div(params.size, kSumsTogether), kSumsTogether * params.count};
}

Work pack_tap_panels_work(const TapPanelParams& params) {
  return {params.channels, panels_of(params.outputs) * kPanel * params.taps};
}

Work dense_conv_transpose2d_work(const DenseConvTranspose2dParams& params) {
  const ConvTranspose& g = params.geometry;
  const DenseBands bands(g);
  const int64_t outputs = smaller(bands.panels, DenseBands::kGroup) * kPanel;
  return {bands.groups * g.samples * bands.count,
          bands.rows * bands.columns * g.channels * outputs * g.kernel_h * g.kernel_w / kProducts};
}

Work pack_weight_panels_work(const PackWeightPanelsParams& params) {
  return weight_panels_work(params.channels, params.outputs);
}

Work unpack_weight_panels_work(const UnpackWeightPanelsParams& params) {
  return weight_panels_work(params.channels, params.outputs);
}

Work unpool_conv2d_work(const UnpoolConv2dParams& params) {
  const UnpoolConv& g = params.geometry;
  const UnpoolBands bands(g);
  const int64_t outputs = smaller(bands.panels, UnpoolBands::kGroup) * kPanel;
  return {bands.groups * g.pool.samples * bands.count,
          bands.rows * g.pool.pooled_width * g.pool.channels * outputs / kUnpooledOutputs};
}

Work pack_grad_panels_work(const UnpoolConv2dBackwardParams& params) {
  const UnpoolConv& g = params.geometry;
  return {panels_of(g.outputs) * grad_panel_rows(g), grad_panel_columns(g) * kPanel};
}

Work unpool_conv2d_backward_work(const UnpoolConv2dBackwardParams& params) {
  const UnpoolConv& g = params.geometry;
  return {g.pool.channels,
          g.pool.pooled_height * g.pool.pooled_width * panels_of(g.outputs) * kPanel / kUnpooledGradients};
}

Work depthwise_cross_entropy_work(const DepthwiseCrossEntropyParams& params) {
  const Upsampling& g = params.scores.geometry;
  return {g.samples * g.output_height, g.output_width * g.channels};
}

Work depthwise_cross_entropy_backward_work(const DepthwiseCrossEntropyBackwardParams& params) {
  return gradient_work(params.scores.geometry, true);
}

GradientParts depthwise_cross_entropy_backward_cpu_parts(const Upsampling& geometry) {
  return gradient_parts(geometry, true);
}

Work extremes_work(const ExtremesParams& params) { return {extremes_parts(params.count), kExtremesPart}; }

}  // namespace segext
