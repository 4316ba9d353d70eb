// Transposed convolutions whose channels do not mix, and their label maps, for every device that has kernels.
#include <optional>
#include <tuple>

#include "../kernels/depthwise_conv_transpose2d.h"
#include "pooling.h"

namespace segext::ops {
namespace {

// Two values, each at least `least`.
void check_pair(const char* op, const char* name, const Ints& values, int64_t least) {
  STD_TORCH_CHECK(values.size() == 2 && values[0] >= least && values[1] >= least, op, ": ", name,
                  " should be two values of at least ", least, ", but got ", text(values));
}

Upsampling make_upsampling(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Ints& output_size, const Ints& stride, const Ints& origin, const Ints& dilation,
                           bool channels_last) {
  check_pair(op, "output_size", output_size, 0);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "origin", origin, 0);
  check_pair(op, "dilation", dilation, 1);
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4, op, ": expected 4D input and weight, but got ",
                  text(sizes_of(input)), " and ", text(sizes_of(weight)));
  const Ints sizes = sizes_of(input), kernel = sizes_of(weight);
  STD_TORCH_CHECK(kernel[0] == sizes[1], op, ": weight of size ", text(kernel), " expected input to have ", kernel[0],
                  " channels, but got ", sizes[1], " channels instead");
  for (int dim = 1; dim < 4; ++dim) {
    STD_TORCH_CHECK(sizes[dim] > 0 && kernel[dim] > 0, op, ": input ", text(sizes), " and weight ", text(kernel),
                    " should have no empty dimension but the batch");
  }
  STD_TORCH_CHECK(weight.scalar_type() == input.scalar_type(), op, ": weight should be ",
                  torch::headeronly::toString(input.scalar_type()), " as input, but is ",
                  torch::headeronly::toString(weight.scalar_type()));
  check_device(op, "weight", weight, "input", input);
  if (bias.has_value()) {
    check_device(op, "bias", *bias, "input", input);
    STD_TORCH_CHECK(bias->scalar_type() == input.scalar_type() && sizes_of(*bias) == Ints{kernel[0] * kernel[1]}, op,
                    ": bias should be ", torch::headeronly::toString(input.scalar_type()), " of size ",
                    text({kernel[0] * kernel[1]}), ", but is ", torch::headeronly::toString(bias->scalar_type()),
                    " of ", text(sizes_of(*bias)));
  }
  return {sizes[0],       kernel[0] * kernel[1],
          kernel[1],      sizes[2],
          sizes[3],       output_size[0],
          output_size[1], kernel[2],
          kernel[3],      stride[0],
          stride[1],      origin[0],
          origin[1],      dilation[0],
          dilation[1],    channels_last};
}

// The tensors of a call in the layout kernels read.
struct Operands {
  Tensor input, weight;
  std::optional<Tensor> bias;

  Operands(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, bool channels_last)
      : input(dense(input, channels_last)), weight(dense(weight, false)) {
    if (bias.has_value()) this->bias = dense(*bias, false);
  }

  DepthwiseConvTranspose2dParams params(const char* op, const Upsampling& geometry) const {
    return {input.const_data_ptr(),
            weight.const_data_ptr(),
            bias.has_value() ? bias->const_data_ptr() : nullptr,
            Addend{},
            nullptr,
            geometry,
            floating_element_type(op, input)};
  }
};

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
