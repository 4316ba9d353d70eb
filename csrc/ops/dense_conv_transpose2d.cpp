// Dense transposed convolutions, whose channels mix. CPU only: on other devices conv_transpose2d.py uses stock.
#include "../kernels/dense_conv_transpose2d.h"

#include <optional>

#include "upsampling.h"

namespace segext::ops {
namespace {

Tensor dense_conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias,
                              const Ints output_size, const Ints stride, const Ints padding, const Ints dilation,
                              bool channels_last) {
  constexpr const char* op = "dense_conv_transpose2d";
  check_pair(op, "output_size", output_size, 1);
  check_pair(op, "stride", stride, 1, kMaxReach);
  check_pair(op, "padding", padding, 0, kMaxReach);
  check_pair(op, "dilation", dilation, 1);
  check_kernel(op, input, weight, dilation);
  const Ints sizes = sizes_of(input), kernel = sizes_of(weight);
  check_bias(op, bias, input, kernel[1]);
  std::optional<Tensor> added;
  if (bias.has_value()) added = dense(*bias, false);
  const Tensor values = dense(input, channels_last), weights = dense(weight, false);
  const ElementType type = floating_element_type(op, input);
  Tensor output =
      empty(input, {sizes[0], kernel[1], output_size[0], output_size[1]}, input.scalar_type(), channels_last);
  if (output.numel() == 0) return output;
  const Tensor panels = empty(input, {panels_of(kernel[1]) * kPanel * kernel[0] * kernel[2] * kernel[3]},
                              type == ElementType::kFloat64 ? ScalarType::Double : ScalarType::Float);
  const TapPanelParams packing{
      .weight = weights.const_data_ptr(),
      .channels = kernel[0],
      .outputs = kernel[1],
      .taps = kernel[2] * kernel[3],
      .panels = panels.mutable_data_ptr(),
      .type = type,
  };
  run(output, SEGEXT_CPU_KERNEL(TapPanelParams, pack_tap_panels), packing);
  const ConvTranspose geometry{
      .samples = sizes[0],
      .channels = sizes[1],
      .outputs = kernel[1],
      .height = sizes[2],
      .width = sizes[3],
      .output_height = output_size[0],
      .output_width = output_size[1],
      .kernel_h = kernel[2],
      .kernel_w = kernel[3],
      .stride_h = stride[0],
      .stride_w = stride[1],
      .padding_h = padding[0],
      .padding_w = padding[1],
      .dilation_h = dilation[0],
      .dilation_w = dilation[1],
      .channels_last = channels_last,
  };
  const DenseConvTranspose2dParams params{
      .input = values.const_data_ptr(),
      .panels = panels.const_data_ptr(),
      .bias = added.has_value() ? added->const_data_ptr() : nullptr,
      .output = output.mutable_data_ptr(),
      .geometry = geometry,
      .type = type,
  };
  run(output, SEGEXT_CPU_KERNEL(DenseConvTranspose2dParams, dense_conv_transpose2d), params);
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) {
  library.impl("dense_conv_transpose2d", TORCH_BOX(&dense_conv_transpose2d));
}

}  // namespace
}  // namespace segext::ops
