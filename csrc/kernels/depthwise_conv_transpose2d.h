// Contract of transposed convolutions whose channels do not mix: each output channel is made from one input channel.
//
// Ops: depthwise_conv_transpose2d; depthwise_conv_transpose2d_argmax, its label map without its scores.
#pragma once

#include "element_type.h"
#include "work.h"

namespace segext {

// Output pixel (y, x) is the sum of weight[i, j] * input[h, w] over all taps with y + origin_h = h * stride_h +
// i * dilation_h, and likewise for x. `origin` is padding and the offset of a crop: the part of the result before it is
// not made.
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

// What is added to the output: the part of a map from `origin` on. Same memory order; `data` may be null.
struct Addend {
  const void* data;  // [N, channels, height, width]
  int64_t height, width;
  int64_t origin_h, origin_w;
};

// Sums are taken in float32 for half types, in one order whatever the threads.
struct DepthwiseConvTranspose2dParams {
  const void* input;   // [N, channels / multiplier, height, width]
  const void* weight;  // [channels, kernel_h, kernel_w]
  const void* bias;    // [channels], or null
  Addend addend;
  void* output;  // [N, channels, output_height, output_width]
  Upsampling geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
};

// The channel of the largest value at each pixel: the lowest of several, and the first NaN before every number, as
// torch.argmax. Values are compared before they are rounded to the element type.
struct DepthwiseArgmaxParams {
  DepthwiseConvTranspose2dParams scores;  // has no `output` and no `addend`
  uint8_t* labels;                        // [N, output_height, output_width]; channels <= 256
  void* best;                             // the values themselves, likewise, or null
};

Work depthwise_conv_transpose2d_work(const DepthwiseConvTranspose2dParams& params);
void depthwise_conv_transpose2d_cpu(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_conv_transpose2d_cuda(const DepthwiseConvTranspose2dParams& params, CudaStream stream);

Work depthwise_argmax_work(const DepthwiseArgmaxParams& params);
void depthwise_argmax_cpu(const DepthwiseArgmaxParams& params, int64_t begin, int64_t end);
CudaStatus depthwise_argmax_cuda(const DepthwiseArgmaxParams& params, CudaStream stream);

}  // namespace segext
