// Contract of dense transposed convolutions: every output channel sums over all input channels.
//
// Op: dense_conv_transpose2d. CPU only.
#pragma once

#include "element_type.h"
#include "panels.h"
#include "reach.h"
#include "work.h"

namespace segext {

// Output pixel (y, x) is the sum of weight[i, j] * input[h, w] over all taps with y + padding_h = h * stride_h +
// i * dilation_h, and likewise for x. Sizes are at most 2^31 - 1; strides, paddings and (kernel - 1) * dilation are at
// most kMaxReach.
struct ConvTranspose {
  int64_t samples, channels, outputs;
  int64_t height, width;
  int64_t output_height, output_width;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
  bool channels_last;  // memory order of input and output
};

// The weight in the layout that the kernel reads: [panels, taps, channels, kPanel outputs] in the type that sums are
// taken in, aligned to a cache line. Outputs that only pad the last panel have zero weights. A unit packs one channel.
struct TapPanelParams {
  const void* weight;  // [channels, outputs, taps]
  int64_t channels, outputs, taps;
  void* panels;
  ElementType type;
};

Work pack_tap_panels_work(const TapPanelParams& params);
void pack_tap_panels_cpu(const TapPanelParams& params, int64_t begin, int64_t end);

// Half types accumulate in float32. The order of every sum is the same for any number of threads.
struct DenseConvTranspose2dParams {
  const void* input;   // [N, channels, height, width]
  const void* panels;  // the packed weight
  const void* bias;    // [outputs], or null
  void* output;        // [N, outputs, output_height, output_width]
  ConvTranspose geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
};

Work dense_conv_transpose2d_work(const DenseConvTranspose2dParams& params);
void dense_conv_transpose2d_cpu(const DenseConvTranspose2dParams& params, int64_t begin, int64_t end);

}  // namespace segext
