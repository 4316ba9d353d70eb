// Common glue of transposed convolutions: checks of operands and, for those whose channels do not mix, the geometry,
// operands in the layout that kernels read, and gradients that come in parts.
#pragma once

#include <limits>
#include <optional>

#include "../kernels/depthwise_conv_transpose2d_backward.h"
#include "checks.h"
#include "kernel.h"
#include "tensors.h"

namespace segext::ops {

// Checks for two values, each from `least` to `most`.
void check_pair(const char* op, const char* name, const Ints& values, int64_t least,
                int64_t most = std::numeric_limits<int32_t>::max());

// Checks that `weight` [C, ...] fits a transposed convolution of `input` [N, C, H, W], that nothing is empty but the
// batch, and that the contract's limits hold for all sizes and for the kernel's reach.
void check_kernel(const char* op, const Tensor& input, const Tensor& weight, const Ints& dilation);

// Checks that `bias`, if given, has the dtype and device of `input` and one value for each output channel.
void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& input, int64_t outputs);

// Checks the arguments and returns the geometry. `weight` is [C, M, kernel height, kernel width] for an input of C
// channels.
Upsampling make_upsampling(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Ints& output_size, const Ints& stride, const Ints& origin, const Ints& dilation,
                           bool channels_last);

// The tensors of a call in dense form, of a type that is checked here. They own the memory that UpsamplingOperands
// point to.
struct DenseOperands {
  Tensor input, weight;
  std::optional<Tensor> bias;
  ElementType type;

  DenseOperands(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                bool channels_last);

  UpsamplingOperands data(const Upsampling& geometry) const;
};

// The type that sums of elements of `tensor` are taken in.
ScalarType sum_type(const Tensor& tensor);

// Tells how many parts an op's gradients come in, on either device.
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

// The numbers of parts on `tensor`'s device.
GradientParts gradient_parts(const Tensor& tensor, const Upsampling& geometry, const PartCounts& counts);

// Memory for the parts of a gradient and for their sum; empty if the gradient is not needed.
class Parts {
 public:
  Parts(bool needed, const Tensor& input, const Ints& size, int64_t count);

  void* data() const;  // null if the gradient is not needed
  Tensor total(const char* op) const;

 private:
  bool needed_;
  int64_t count_;
  Tensor total_, parts_;
};

}  // namespace segext::ops
