// Common glue of transposed convolutions: checks of operands and, for those whose channels do not mix, the geometry,
// operands in the layout that kernels read, and gradients that come in parts.
#pragma once

#include <optional>

#include "../kernels/depthwise_conv_transpose2d_backward.h"
#include "checks.h"
#include "kernel.h"
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

// What sums of elements of `tensor` are taken in.
ScalarType sum_type(const Tensor& tensor);

// How many parts an op's gradients come in.
struct PartCounts {
  GradientParts (*cpu)(const Upsampling&);
  GradientParts (*cuda)(const Upsampling&);
};

#if defined(SEGEXT_WITH_CUDA)
#define SEGEXT_PART_COUNTS(stem) \
  segext::ops::PartCounts { stem##_cpu_parts, stem##_cuda_parts }
#else
#define SEGEXT_PART_COUNTS(stem) \
  segext::ops::PartCounts { stem##_cpu_parts, nullptr }
#endif

// On `tensor`'s device.
GradientParts gradient_parts(const Tensor& tensor, const Upsampling& geometry, const PartCounts& counts);

// Room for a gradient that comes in parts, and for their sum; empty if it is not needed.
class Parts {
 public:
  Parts(bool needed, const Tensor& input, const Ints& size, int64_t count);

  void* data() const;  // null if it is not needed
  Tensor total(const char* op) const;

 private:
  bool needed_;
  int64_t count_;
  Tensor total_, parts_;
};

}  // namespace segext::ops
