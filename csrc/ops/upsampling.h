// What the glue of every upsampling op shares: arguments checked into a geometry, operands in the layout kernels read.
#pragma once

#include <optional>

#include "../kernels/depthwise_conv_transpose2d.h"
#include "tensors.h"

namespace segext::ops {

// Two values, each at least `least`.
void check_pair(const char* op, const char* name, const Ints& values, int64_t least);

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
