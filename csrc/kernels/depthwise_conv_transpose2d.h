// Contract of transposed convolutions whose channels do not mix: each output channel is made from one input channel.
//
// Ops: depthwise_conv_transpose2d, and depthwise_conv_transpose2d_argmax, which returns the label map of the result
// without storing the result itself.
#pragma once

#include "element_type.h"
#include "reach.h"
#include "work.h"

namespace segext {

// Output pixel (y, x) is the sum of weight[i, j] * input[h, w] over all taps with
// y + origin_h = h * stride_h + i * dilation_h, and likewise for x. `origin` is the padding plus the offset of a crop:
// the part of the full result that lies before it is not computed. Sizes and origins are at most 2^31 - 1;
// strides and (kernel - 1) * dilation are at most kMaxReach.
struct Upsampling {
  int64_t samples;
  int64_t channels;    // of the output
  int64_t multiplier;  // output channels made from each input channel
  int64_t height, width;
  int64_t output_height, output_width;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t origin_h, origin_w;
  int64_t dilation_h, dilation_w;
  bool channels_last;  // memory order of input and output
};

SEGEXT_INLINE int64_t input_channels(const Upsampling& g) { return g.channels / g.multiplier; }

// What an op multiplies and adds up. Half types accumulate in float32. The order of every sum is the same for any
// number of threads.
struct UpsamplingOperands {
  const void* input;   // [N, input_channels, height, width]
  const void* weight;  // [channels, kernel_h, kernel_w]
  const void* bias;    // [channels], or null
  Upsampling geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
};

// A map that is added to the output, read from `origin` on. It has the output's memory order; `data` may be null.
struct Addend {
  const void* data;  // [N, channels, height, width]
  int64_t height, width;
  int64_t origin_h, origin_w;
};

struct DepthwiseConvTranspose2dParams {
  UpsamplingOperands operands;
  Addend addend;
  void* output;  // [N, channels, output_height, output_width]
};

// The channel with the largest value at each pixel. As in torch.argmax, the lowest such channel wins, and the first NaN
// beats every number. Values are compared before they are rounded to the element type.
struct DepthwiseArgmaxParams {
  UpsamplingOperands scores;
  uint8_t* labels;  // [N, output_height, output_width]; channels <= 256
  void* best;       // the largest values, of the same shape, or null
};

Work depthwise_conv_transpose2d_work(const DepthwiseConvTranspose2dParams& params);
void depthwise_conv_transpose2d_cpu(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_conv_transpose2d_cuda(const DepthwiseConvTranspose2dParams& params, CudaStream stream);

Work depthwise_argmax_work(const DepthwiseArgmaxParams& params);
void depthwise_argmax_cpu(const DepthwiseArgmaxParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_argmax_cuda(const DepthwiseArgmaxParams& params, CudaStream stream);

}  // namespace segext
