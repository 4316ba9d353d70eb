// Contract of unpooling followed by a 3x3 convolution of stride 1, transposed or not, in which the unpooled map is
// never stored. Windows are 2x2 with stride 2 and no padding, so that at most one pixel in four holds a value
// and only a quarter of the multiplications remain, forward and backward.
//
// On CUDA, half types use tensor cores from compute capability 8.0 on. These multiply the zeros too, so a pixel without
// a value contributes NaN if the weight is infinite or NaN.
//
// Ops: unpool_conv2d; unpool_conv2d_pack and unpool_conv2d_backward, which are for the CPU only.
#pragma once

#include "element_type.h"
#include "panels.h"
#include "switches.h"
#include "work.h"

namespace segext {

// Output pixel (y, x) is the sum of weight[i, j] * unpooled[u, v] over all taps with y + padding_h = u + i, and
// likewise for x: a transposed convolution. A plain convolution is the same with the weights mirrored and padding 2 - p
// in place of p.
struct UnpoolConv {
  PoolGeometry pool;  // `height` and `width` are those of the unpooled map
  int64_t outputs;    // channels of the result
  int64_t padding_h, padding_w;
  int64_t output_height, output_width;  // height + 2 - 2 * padding_h
};

// A strided view of a convolution's weight, transposed or not: element (channel, output, i, j) lies at `data` plus the
// sum of each index times its stride, in elements. A mirrored weight has negative row and column strides.
template <typename Data>
struct StridedWeight {
  Data* data;
  int64_t channel_stride, output_stride, row_stride, column_stride;
};
using WeightView = StridedWeight<const void>;

// The weight in the layout that the CPU kernels read: [panels, channels, 9 taps, kPanel outputs] in the type that sums
// are taken in (float64 for float64, otherwise float32), aligned to a cache line. Outputs that only pad the last panel
// have zero weights.
inline constexpr int64_t kPanelTaps = 9;

SEGEXT_INLINE int64_t panel_elements(int64_t channels, int64_t outputs) {
  return panels_of(outputs) * channels * kPanelTaps * kPanel;
}

// The layout that the CUDA kernels read is padded with zeros to this many channels and outputs. Its order is that of
// the kernel which a type uses on a device (cuda/weight_panels.cuh). Every order fits into this many elements of the
// type that sums are taken in.
SEGEXT_INLINE int64_t cuda_panel_channels(int64_t channels) { return (channels + 15) / 16 * 16; }
SEGEXT_INLINE int64_t cuda_panel_outputs(int64_t outputs) { return (outputs + 63) / 64 * 64; }
SEGEXT_INLINE int64_t cuda_panel_elements(int64_t channels, int64_t outputs) {
  return cuda_panel_outputs(outputs) * cuda_panel_channels(channels) * kPanelTaps;
}

// Bytes of scratch in which the CUDA kernels that use tensor cores convert pooled values and codes to channels_last; 0
// for sizes and types that these kernels do not convert. Devices without them leave the scratch unused.
SEGEXT_INLINE int64_t cuda_channels_last_bytes(const UnpoolConv& g, ElementType type) {
  constexpr int64_t kLanes = 8;
  const bool by_vectors = element_size(type) == 2 && !g.pool.channels_last && g.pool.channels % kLanes == 0;
  const int64_t elements = g.pool.channels * g.pool.pooled_height * g.pool.pooled_width;
  return by_vectors ? g.pool.samples * (2 * elements + g.pool.sample_bytes) : 0;
}

// Converts a weight to panels. On the CPU, a unit is one channel.
struct PackWeightPanelsParams {
  WeightView weight;
  int64_t channels, outputs;
  void* panels;
  ElementType type;
};

Work pack_weight_panels_work(const PackWeightPanelsParams& params);
void pack_weight_panels_cpu(const PackWeightPanelsParams& params, int64_t begin, int64_t end);
CudaStatus pack_weight_panels_cuda(const PackWeightPanelsParams& params, CudaStream stream);

// Converts panels to a weight, in the same units.
struct UnpackWeightPanelsParams {
  StridedWeight<void> weight;
  int64_t channels, outputs;
  const void* panels;
  ElementType type;
};

Work unpack_weight_panels_work(const UnpackWeightPanelsParams& params);
void unpack_weight_panels_cpu(const UnpackWeightPanelsParams& params, int64_t begin, int64_t end);

// The order of every sum is the same for any number of threads. On CUDA, the order without tensor cores depends on the
// sizes of the batch and the maps.
struct UnpoolConv2dParams {
  const void* input;            // pooled values, [N, C, pooled_height, pooled_width]
  const uint8_t* codes;         // [N, sample_bytes]
  WeightView weight;            // without panels, each CPU thread packs those it needs from this
  const void* panels;           // the weight packed for the device; null only on the CPU
  const void* bias;             // [outputs], or null
  void* output;                 // [N, outputs, output_height, output_width]
  void* channels_last_scratch;  // scratch of cuda_channels_last_bytes, or null
  UnpoolConv geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
};

Work unpool_conv2d_work(const UnpoolConv2dParams& params);
void unpool_conv2d_cpu(const UnpoolConv2dParams& params, int64_t begin, int64_t end);
CudaStatus unpool_conv2d_cuda(const UnpoolConv2dParams& params, CudaStream stream);

// The gradient of one sample's result in the layout that the backward kernel reads: [panels, height + 5, width + 2,
// kPanel] in the type that sums are taken in. Row y, column x of the result lies at (y + padding_h, x + padding_w), and
// everything around it is zero. The last three rows are zero too: they stand for the pixels outside the map that
// switches name.
SEGEXT_INLINE int64_t grad_panel_rows(const UnpoolConv& g) { return g.pool.height + 5; }
SEGEXT_INLINE int64_t grad_panel_columns(const UnpoolConv& g) { return g.pool.width + 2; }
SEGEXT_INLINE int64_t grad_panel_elements(const UnpoolConv& g) {
  return panels_of(g.outputs) * grad_panel_rows(g) * grad_panel_columns(g) * kPanel;
}

// The gradients of one sample take two kernels: first pack_grad_panels, whose units are the rows of all panels, then
// unpool_conv2d_backward, whose units are channels.
struct UnpoolConv2dBackwardParams {
  const void* grad_output;  // [N, outputs, output_height, output_width]
  const void* input;        // pooled values
  const uint8_t* codes;
  const void* panels;        // the packed weight; read if grad_input is wanted
  void* grad_panels;         // scratch
  void* grad_input;          // like input, or null
  void* grad_weight_panels;  // accumulated into, or null
  UnpoolConv geometry;
  int64_t sample;
  ElementType type;
};

Work pack_grad_panels_work(const UnpoolConv2dBackwardParams& params);
void pack_grad_panels_cpu(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end);

Work unpool_conv2d_backward_work(const UnpoolConv2dBackwardParams& params);
void unpool_conv2d_backward_cpu(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end);

}  // namespace segext
