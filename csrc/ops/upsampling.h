// What the glue of transposed convolutions shares: checks of operands, and of those whose channels do not mix the
// geometry, and operands in the layout kernels read.
#pragma once

#include <optional>

#include "../kernels/depthwise_conv_transpose2d.h"
#include "tensors.h"

namespace segext::ops {

// Two values, each at least `least`.
void check_pair(const char* op, const char* name, const Ints& values, int64_t least);

// `weight` is one of a transposed convolution of `input`, [C, ...] for [N, C, H, W], with nothing empty but the batch.
void check_kernel(const char* op, const Tensor& input, const Tensor& weight);

// `bias`, if there is one, is like `input` and has a value for each output channel.
void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& input, int64_t outputs);

// `weight` is [C, M, kernel height, kernel width] for an input of C channels.
Upsampling make_upsampling(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Ints& output_size, const Ints& stride, const Ints& origin, const Ints& dilation,
                           bool channels_last);

// The tensors of a call, dense. They own what params point to.
struct Operands {
  Tensor input, weight;
  std::optional<Tensor> bias;

  Operands(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, bool channels_last);

  // With neither addend nor output.
  DepthwiseConvTranspose2dParams params(const char* op, const Upsampling& geometry) const;
};

}  // namespace segext::ops
