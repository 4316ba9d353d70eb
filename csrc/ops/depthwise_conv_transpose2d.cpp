// Transposed convolutions whose channels do not mix, their gradients and their label maps, for every device that has
// kernels.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "upsampling.h"

namespace segext::ops {
namespace {

// Checks `addend` and describes the part of it that is added to a result of these sizes.
Addend make_addend(const char* op, const Tensor& addend, const Tensor& input, const Ints& sizes, const Ints& origin) {
  check_pair(op, "addend_origin", origin, 0);
  check_device(op, "addend", addend, "input", input);
  SEGEXT_CHECK(addend.scalar_type() == input.scalar_type(), op, ": addend should be ",
               torch::headeronly::toString(input.scalar_type()), " as input, but is ",
               torch::headeronly::toString(addend.scalar_type()));
  const Ints given = sizes_of(addend);
  SEGEXT_CHECK(given.size() == 4 && given[0] == sizes[0] && given[1] == sizes[1] && given[2] >= origin[0] + sizes[2] &&
                   given[3] >= origin[1] + sizes[3],
               op, ": addend of size ", text(given), " does not hold ", text(sizes), " from ", text(origin), " on");
  return {addend.const_data_ptr(), given[2], given[3], origin[0], origin[1]};
}

Tensor depthwise_conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias,
                                  const std::optional<Tensor> addend, const Ints output_size, const Ints stride,
                                  const Ints origin, const Ints dilation, const Ints addend_origin,
                                  bool channels_last) {
  constexpr const char* op = "depthwise_conv_transpose2d";
  const Upsampling geometry =
      make_upsampling(op, input, weight, bias, output_size, stride, origin, dilation, channels_last);
  const DenseOperands operands(op, input, weight, bias, channels_last);
  const Ints sizes{geometry.samples, geometry.channels, geometry.output_height, geometry.output_width};
  std::optional<Tensor> added;
  if (addend.has_value()) added = dense(*addend, channels_last);
  const Addend part = added.has_value() ? make_addend(op, *added, input, sizes, addend_origin) : Addend{};
  Tensor output = empty(input, sizes, input.scalar_type(), channels_last);
  if (output.numel() > 0) {
    const DepthwiseConvTranspose2dParams params{operands.data(geometry), part, output.mutable_data_ptr()};
    run(output, SEGEXT_KERNEL(DepthwiseConvTranspose2dParams, depthwise_conv_transpose2d), params);
  }
  return output;
}

std::tuple<Tensor, Tensor> depthwise_conv_transpose2d_argmax(const Tensor& input, const Tensor& weight,
                                                             const std::optional<Tensor> bias, const Ints output_size,
                                                             const Ints stride, const Ints origin, const Ints dilation,
                                                             bool channels_last, bool return_scores) {
  constexpr const char* op = "depthwise_conv_transpose2d_argmax";
  const Upsampling geometry =
      make_upsampling(op, input, weight, bias, output_size, stride, origin, dilation, channels_last);
  SEGEXT_CHECK(geometry.channels <= 256, op, ": labels are uint8, but there are ", geometry.channels, " classes");
  const DenseOperands operands(op, input, weight, bias, channels_last);
  const Ints sizes{geometry.samples, geometry.output_height, geometry.output_width};
  Tensor labels = empty(input, sizes, ScalarType::Byte);
  Tensor scores = empty(input, return_scores ? sizes : Ints{0}, input.scalar_type());
  if (labels.numel() > 0) {
    const DepthwiseArgmaxParams params{operands.data(geometry), static_cast<uint8_t*>(labels.mutable_data_ptr()),
                                       return_scores ? scores.mutable_data_ptr() : nullptr};
    run(labels, SEGEXT_KERNEL(DepthwiseArgmaxParams, depthwise_argmax), params);
  }
  return {labels, scores};
}

// The gradients of depthwise_conv_transpose2d; those that are not needed are empty.
std::tuple<Tensor, Tensor, Tensor> depthwise_conv_transpose2d_backward(const Tensor& grad_output, const Tensor& input,
                                                                       const Tensor& weight, const Ints stride,
                                                                       const Ints origin, const Ints dilation,
                                                                       bool channels_last, bool needs_input,
                                                                       bool needs_weight, bool needs_bias) {
  constexpr const char* op = "depthwise_conv_transpose2d_backward";
  check_like(op, "grad_output", grad_output, "input", input);
  SEGEXT_CHECK(grad_output.dim() == 4, op, ": grad_output should be 4D, but is of size ", text(sizes_of(grad_output)));
  const Upsampling g = make_upsampling(op, input, weight, std::nullopt, spatial_size(grad_output), stride, origin,
                                       dilation, channels_last);
  SEGEXT_CHECK(grad_output.size(0) == g.samples && grad_output.size(1) == g.channels, op, ": grad_output of size ",
               text(sizes_of(grad_output)), " does not fit input of size ", text(sizes_of(input)),
               " and weight of size ", text(sizes_of(weight)));
  const Tensor grad = dense(grad_output, channels_last);
  const DenseOperands operands(op, input, weight, std::nullopt, channels_last);
  const Tensor grad_input =
      empty(input, needs_input ? sizes_of(input) : Ints{0}, input.scalar_type(), needs_input && channels_last);
  const bool any = grad_output.numel() > 0;
  const GradientParts counts =
      any ? gradient_parts(grad, g, SEGEXT_PART_COUNTS(depthwise_conv_transpose2d_backward)) : GradientParts{0, 0};
  const Parts weights(needs_weight, input, sizes_of(weight), counts.weight);
  const Parts biases(needs_bias, input, {g.channels}, counts.bias);
  if (!any) {
    torch::stable::fill_(grad_input, 0);
  } else if (needs_input || needs_weight || needs_bias) {
    const UpsamplingGradients gradients{needs_input ? grad_input.mutable_data_ptr() : nullptr, weights.data(),
                                        biases.data()};
    const DepthwiseConvTranspose2dBackwardParams params{grad.const_data_ptr(), operands.data(g), gradients};
    run(grad, SEGEXT_KERNEL(DepthwiseConvTranspose2dBackwardParams, depthwise_conv_transpose2d_backward), params);
  }
  return {grad_input, weights.total(op), biases.total(op)};
}

SEGEXT_REGISTER(library) {
  library.impl("depthwise_conv_transpose2d", TORCH_BOX(&depthwise_conv_transpose2d));
  library.impl("depthwise_conv_transpose2d_backward", TORCH_BOX(&depthwise_conv_transpose2d_backward));
  library.impl("depthwise_conv_transpose2d_argmax", TORCH_BOX(&depthwise_conv_transpose2d_argmax));
}

}  // namespace
}  // namespace segext::ops
