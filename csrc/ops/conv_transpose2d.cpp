// Transposed convolutions whose channels do not mix, and their label maps, for every device that has kernels.
#include <tuple>

#include "pooling.h"
#include "upsampling.h"

namespace segext::ops {
namespace {

// The part of `addend` that a result of these sizes is added to.
Addend make_addend(const char* op, const Tensor& addend, const Tensor& input, const Ints& sizes, const Ints& origin) {
  check_pair(op, "addend_origin", origin, 0);
  check_device(op, "addend", addend, "input", input);
  STD_TORCH_CHECK(addend.scalar_type() == input.scalar_type(), op, ": addend should be ",
                  torch::headeronly::toString(input.scalar_type()), " as input, but is ",
                  torch::headeronly::toString(addend.scalar_type()));
  const Ints given = sizes_of(addend);
  STD_TORCH_CHECK(given.size() == 4 && given[0] == sizes[0] && given[1] == sizes[1] &&
                      given[2] >= origin[0] + sizes[2] && given[3] >= origin[1] + sizes[3],
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
  const Operands operands(input, weight, bias, channels_last);
  DepthwiseConvTranspose2dParams params = operands.params(op, geometry);
  const Ints sizes{geometry.samples, geometry.channels, geometry.output_height, geometry.output_width};
  std::optional<Tensor> added;
  if (addend.has_value()) {
    added = dense(*addend, channels_last);
    params.addend = make_addend(op, *added, input, sizes, addend_origin);
  }
  Tensor output = empty(input, sizes, input.scalar_type(), channels_last);
  if (output.numel() > 0) {
    params.output = output.mutable_data_ptr();
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
  STD_TORCH_CHECK(geometry.channels <= 256, op, ": labels are uint8, but there are ", geometry.channels, " classes");
  const Operands operands(input, weight, bias, channels_last);
  const Ints sizes{geometry.samples, geometry.output_height, geometry.output_width};
  Tensor labels = empty(input, sizes, ScalarType::Byte);
  Tensor scores = empty(input, return_scores ? sizes : Ints{0}, input.scalar_type());
  if (labels.numel() > 0) {
    const DepthwiseArgmaxParams params{operands.params(op, geometry), static_cast<uint8_t*>(labels.mutable_data_ptr()),
                                       return_scores ? scores.mutable_data_ptr() : nullptr};
    run(labels, SEGEXT_KERNEL(DepthwiseArgmaxParams, depthwise_argmax), params);
  }
  return {labels, scores};
}

void register_kernels(torch::stable::detail::StableLibrary& library) {
  library.impl("depthwise_conv_transpose2d", TORCH_BOX(&depthwise_conv_transpose2d));
  library.impl("depthwise_conv_transpose2d_argmax", TORCH_BOX(&depthwise_conv_transpose2d_argmax));
}

SEGEXT_REGISTER(register_kernels)

}  // namespace
}  // namespace segext::ops
