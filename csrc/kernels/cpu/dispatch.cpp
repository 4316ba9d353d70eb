// Selects the instruction set of the CPU kernels, once per process, and defines how their work is divided.
#include "../dense_conv_transpose2d.h"
#include "../depthwise_conv_transpose2d_backward.h"
#include "../depthwise_cross_entropy.h"
#include "../extremes.h"
#include "../gather.h"
#include "../indices.h"
#include "../max_pool2d.h"
#include "../scatter.h"
#include "../unpool_conv2d.h"
#include "capability.h"
#include "code_strips.h"
#include "dense_bands.h"
#include "gradient_bands.h"
#include "rows.h"
#include "unpool_bands.h"

// Declares the kernels that are compiled for one instruction set.
#define SEGEXT_DECLARE_KERNELS(level)                                                                                  \
  namespace segext::level {                                                                                            \
  void max_pool2d(const MaxPool2dParams&, int64_t begin, int64_t end);                                                 \
  void scatter(const ScatterParams&, int64_t begin, int64_t end);                                                      \
  void gather(const GatherParams&, int64_t begin, int64_t end);                                                        \
  void repack_codes(const RepackCodesParams&, int64_t begin, int64_t end);                                             \
  void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams&, int64_t begin, int64_t end);                  \
  void depthwise_argmax(const DepthwiseArgmaxParams&, int64_t begin, int64_t end);                                     \
  void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams&, int64_t begin, int64_t end); \
  void sum_parts(const SumPartsParams&, int64_t begin, int64_t end);                                                   \
  void pack_tap_panels(const TapPanelParams&, int64_t begin, int64_t end);                                             \
  void dense_conv_transpose2d(const DenseConvTranspose2dParams&, int64_t begin, int64_t end);                          \
  void pack_weight_panels(const PackWeightPanelsParams&, int64_t begin, int64_t end);                                  \
  void unpack_weight_panels(const UnpackWeightPanelsParams&, int64_t begin, int64_t end);                              \
  void unpool_conv2d(const UnpoolConv2dParams&, int64_t begin, int64_t end);                                           \
  void pack_grad_panels(const UnpoolConv2dBackwardParams&, int64_t begin, int64_t end);                                \
  void unpool_conv2d_backward(const UnpoolConv2dBackwardParams&, int64_t begin, int64_t end);                          \
  void depthwise_cross_entropy(const DepthwiseCrossEntropyParams&, int64_t begin, int64_t end);                        \
  void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyBackwardParams&, int64_t begin, int64_t end);       \
  void extremes(const ExtremesParams&, int64_t begin, int64_t end);                                                    \
  }

SEGEXT_DECLARE_KERNELS(baseline)
#if defined(SEGEXT_X86_LEVELS)
SEGEXT_DECLARE_KERNELS(avx2)
SEGEXT_DECLARE_KERNELS(avx512)
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

}  // namespace

Work max_pool2d_work(const MaxPool2dParams& params) {
  const PoolGeometry& g = params.geometry;
  const int64_t rows = Rows(g).planes * g.pooled_height;
  const int64_t group = rows_per_code_byte(g);
  return {g.samples * ceil_div(rows, group), group * Rows(g).row * smaller(g.window.stride_h, g.height)};
}

void max_pool2d_cpu(const MaxPool2dParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(max_pool2d);
  kernel(params, begin, end);
}

Work scatter_work(const ScatterParams& params) {
  const PoolGeometry& g = params.geometry;
  return {g.samples * Rows(g).planes * g.height, Rows(g).row};
}

void scatter_cpu(const ScatterParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(scatter);
  kernel(params, begin, end);
}

Work gather_work(const GatherParams& params) {
  const PoolGeometry& g = params.geometry;
  return {g.samples * Rows(g).planes * g.pooled_height, Rows(g).row * smaller(g.window.stride_h, g.height)};
}

void gather_cpu(const GatherParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(gather);
  kernel(params, begin, end);
}

Work repack_codes_work(const RepackCodesParams& params) {
  const CodeStrips strips(params.geometry);
  return {params.geometry.samples * strips.count, strips.rows * strips.sources};
}

void repack_codes_cpu(const RepackCodesParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(repack_codes);
  kernel(params, begin, end);
}

Work depthwise_conv_transpose2d_work(const DepthwiseConvTranspose2dParams& params) {
  const Upsampling& g = params.geometry;
  const int64_t planes = g.channels_last ? 1 : g.channels, depth = g.channels_last ? g.channels : 1;
  return {g.samples * planes * g.output_height, g.output_width * depth};
}

void depthwise_conv_transpose2d_cpu(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(depthwise_conv_transpose2d);
  kernel(params, begin, end);
}

Work depthwise_argmax_work(const DepthwiseArgmaxParams& params) {
  const Upsampling& g = params.scores.geometry;
  return {g.samples * g.output_height, g.output_width * g.channels};
}

void depthwise_argmax_cpu(const DepthwiseArgmaxParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(depthwise_argmax);
  kernel(params, begin, end);
}

Work depthwise_conv_transpose2d_backward_work(const DepthwiseConvTranspose2dBackwardParams& params) {
  return gradient_work(params.call.geometry, params.call.geometry.channels_last);
}

void depthwise_conv_transpose2d_backward_cpu(const DepthwiseConvTranspose2dBackwardParams& params, int64_t begin,
                                             int64_t end) {
  static const auto kernel = SEGEXT_PICK(depthwise_conv_transpose2d_backward);
  kernel(params, begin, end);
}

GradientParts depthwise_conv_transpose2d_backward_cpu_parts(const Upsampling& geometry) {
  return gradient_parts(geometry, geometry.channels_last);
}

Work sum_parts_work(const SumPartsParams& params) {
  return {ceil_div(params.size, kSumsTogether), kSumsTogether * params.count};
}

void sum_parts_cpu(const SumPartsParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(sum_parts);
  kernel(params, begin, end);
}

Work pack_tap_panels_work(const TapPanelParams& params) {
  return {params.channels, panels_of(params.outputs) * kPanel * params.taps};
}

void pack_tap_panels_cpu(const TapPanelParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(pack_tap_panels);
  kernel(params, begin, end);
}

Work dense_conv_transpose2d_work(const DenseConvTranspose2dParams& params) {
  const ConvTranspose& g = params.geometry;
  const DenseBands bands(g);
  const int64_t outputs = smaller(bands.panels, DenseBands::kGroup) * kPanel;
  return {bands.groups * g.samples * bands.count,
          bands.rows * bands.columns * g.channels * outputs * g.kernel_h * g.kernel_w / kProducts};
}

void dense_conv_transpose2d_cpu(const DenseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(dense_conv_transpose2d);
  kernel(params, begin, end);
}

Work pack_weight_panels_work(const PackWeightPanelsParams& params) {
  return weight_panels_work(params.channels, params.outputs);
}

void pack_weight_panels_cpu(const PackWeightPanelsParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(pack_weight_panels);
  kernel(params, begin, end);
}

Work unpack_weight_panels_work(const UnpackWeightPanelsParams& params) {
  return weight_panels_work(params.channels, params.outputs);
}

void unpack_weight_panels_cpu(const UnpackWeightPanelsParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(unpack_weight_panels);
  kernel(params, begin, end);
}

Work unpool_conv2d_work(const UnpoolConv2dParams& params) {
  const UnpoolConv& g = params.geometry;
  const UnpoolBands bands(g);
  const int64_t outputs = smaller(bands.panels, UnpoolBands::kGroup) * kPanel;
  return {bands.groups * g.pool.samples * bands.count,
          bands.rows * g.pool.pooled_width * g.pool.channels * outputs / kUnpooledOutputs};
}

void unpool_conv2d_cpu(const UnpoolConv2dParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(unpool_conv2d);
  kernel(params, begin, end);
}

Work pack_grad_panels_work(const UnpoolConv2dBackwardParams& params) {
  const UnpoolConv& g = params.geometry;
  return {panels_of(g.outputs) * grad_panel_rows(g), grad_panel_columns(g) * kPanel};
}

void pack_grad_panels_cpu(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(pack_grad_panels);
  kernel(params, begin, end);
}

Work unpool_conv2d_backward_work(const UnpoolConv2dBackwardParams& params) {
  const UnpoolConv& g = params.geometry;
  return {g.pool.channels,
          g.pool.pooled_height * g.pool.pooled_width * panels_of(g.outputs) * kPanel / kUnpooledGradients};
}

void unpool_conv2d_backward_cpu(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(unpool_conv2d_backward);
  kernel(params, begin, end);
}

Work depthwise_cross_entropy_work(const DepthwiseCrossEntropyParams& params) {
  const Upsampling& g = params.scores.geometry;
  return {g.samples * g.output_height, g.output_width * g.channels};
}

void depthwise_cross_entropy_cpu(const DepthwiseCrossEntropyParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(depthwise_cross_entropy);
  kernel(params, begin, end);
}

Work depthwise_cross_entropy_backward_work(const DepthwiseCrossEntropyBackwardParams& params) {
  return gradient_work(params.scores.geometry, true);
}

void depthwise_cross_entropy_backward_cpu(const DepthwiseCrossEntropyBackwardParams& params, int64_t begin,
                                          int64_t end) {
  static const auto kernel = SEGEXT_PICK(depthwise_cross_entropy_backward);
  kernel(params, begin, end);
}

GradientParts depthwise_cross_entropy_backward_cpu_parts(const Upsampling& geometry) {
  return gradient_parts(geometry, true);
}

Work extremes_work(const ExtremesParams& params) { return {extremes_parts(params.count), kExtremesPart}; }

void extremes_cpu(const ExtremesParams& params, int64_t begin, int64_t end) {
  static const auto kernel = SEGEXT_PICK(extremes);
  kernel(params, begin, end);
}

}  // namespace segext
