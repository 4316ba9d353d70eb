// max_pool2d, relu_max_pool2d and their backwards, for every device that has kernels.
#include "../kernels/max_pool2d.h"

#include <optional>
#include <tuple>

#include "../kernels/gather.h"
#include "pooling.h"

namespace segext::ops {
namespace {

std::tuple<Tensor, Tensor> pool(const char* op, const Tensor& input, const Ints& kernel_size, const Ints& stride,
                                const Ints& padding, const Ints& dilation, bool ceil_mode, bool channels_last,
                                bool relu) {
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "input", input);
  const ElementType type = element_type(op, input);
  const Ints pooled = pooled_size(op, window, input, ceil_mode);
  const Tensor map = dense(input, channels_last);
  const PoolGeometry geometry = make_geometry(op, window, sizes_of(map), spatial_size(map), pooled, channels_last);
  Tensor output = empty(map, with_spatial_size(map, pooled), map.scalar_type(), channels_last);
  Tensor codes = empty_codes(map, geometry);
  if (output.numel() > 0) {
    const MaxPool2dParams params{
        .input = map.const_data_ptr(),
        .output = output.mutable_data_ptr(),
        .codes = static_cast<uint8_t*>(codes.mutable_data_ptr()),
        .geometry = as_row(geometry),
        .type = type,
        .relu = relu,
    };
    run(map, SEGEXT_KERNEL(MaxPool2dParams, max_pool2d), params);
  }
  return {output, codes};
}

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, const Ints kernel_size, const Ints stride,
                                      const Ints padding, const Ints dilation, bool ceil_mode, bool channels_last) {
  return pool("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, channels_last, false);
}

std::tuple<Tensor, Tensor> relu_max_pool2d(const Tensor& input, const Ints kernel_size, const Ints stride,
                                           const Ints padding, const Ints dilation, bool ceil_mode,
                                           bool channels_last) {
  return pool("relu_max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, channels_last, true);
}

// The dense form of a saved ReLU output, checked against the pooled map it masks.
std::optional<Tensor> dense_relu_output(const char* op, const std::optional<Tensor>& relu_output, const Tensor& pooled,
                                        bool channels_last) {
  if (!relu_output.has_value()) return std::nullopt;
  check_same(op, "relu_output", *relu_output, "the pooled gradient", pooled);
  return dense(*relu_output, channels_last);
}

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

void backward_into(const char* op, const Tensor& grad_input, bool bypass_caches, const Tensor& grad_output,
                   const Tensor& codes, const std::optional<Tensor>& relu_output, const Ints& input_size,
                   const Window& window, bool channels_last) {
  check_device(op, "codes", codes, "grad_output", grad_output);
  const Tensor grad = dense(grad_output, channels_last);
  const PoolGeometry geometry =
      make_geometry(op, window, sizes_of(grad), input_size, spatial_size(grad), channels_last);
  const Tensor rows = checked_codes(op, codes, grad.dim() == 4, geometry);
  const std::optional<Tensor> mask = dense_relu_output(op, relu_output, grad, channels_last);
  if (grad_input.numel() == 0) return;
  const ScatterParams params{
      .values = grad.const_data_ptr(),
      .relu_output = data_or_null(mask),
      .codes = code_data(rows),
      .map = grad_input.mutable_data_ptr(),
      .geometry = as_row(geometry),
      .type = floating_element_type(op, grad),
      .overlap = Overlap::kAdd,
      .bypass_caches = bypass_caches,
  };
  run(grad, SEGEXT_KERNEL(ScatterParams, scatter), params);
}

Tensor max_pool2d_backward(const Tensor& grad_output, const Tensor& codes, const std::optional<Tensor> relu_output,
                           const Ints input_size, const Ints kernel_size, const Ints stride, const Ints padding,
                           const Ints dilation, bool channels_last) {
  constexpr const char* op = "max_pool2d_backward";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "grad_output", grad_output);
  check_spatial_size(op, "input_size", input_size);
  Tensor grad_input =
      empty(grad_output, with_spatial_size(grad_output, input_size), grad_output.scalar_type(), channels_last);
  backward_into(op, grad_input, false, grad_output, codes, relu_output, input_size, window, channels_last);
  return grad_input;
}

void max_pool2d_backward_out(const Tensor& grad_output, const Tensor& codes, const std::optional<Tensor> relu_output,
                             const Ints input_size, const Ints kernel_size, const Ints stride, const Ints padding,
                             const Ints dilation, bool channels_last, Tensor out) {
  constexpr const char* op = "max_pool2d_backward_out";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "grad_output", grad_output);
  check_spatial_size(op, "input_size", input_size);
  check_out(op, out, grad_output, with_spatial_size(grad_output, input_size), channels_last);
  backward_into(op, out, bypasses_caches(out), grad_output, codes, relu_output, input_size, window, channels_last);
}

Tensor max_pool2d_double_backward(const Tensor& grad_grad_input, const Tensor& codes,
                                  const std::optional<Tensor> relu_output, const Ints output_size,
                                  const Ints kernel_size, const Ints stride, const Ints padding, const Ints dilation,
                                  bool channels_last) {
  constexpr const char* op = "max_pool2d_double_backward";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "grad_grad_input", grad_grad_input);
  check_spatial_size(op, "output_size", output_size);
  check_device(op, "codes", codes, "grad_grad_input", grad_grad_input);
  const Tensor map = dense(grad_grad_input, channels_last);
  const PoolGeometry geometry = make_geometry(op, window, sizes_of(map), spatial_size(map), output_size, channels_last);
  const Tensor rows = checked_codes(op, codes, map.dim() == 4, geometry);
  Tensor values = empty(map, with_spatial_size(map, output_size), map.scalar_type(), channels_last);
  const std::optional<Tensor> mask = dense_relu_output(op, relu_output, values, channels_last);
  if (values.numel() > 0) {
    const GatherParams params{
        .map = map.const_data_ptr(),
        .relu_output = data_or_null(mask),
        .codes = code_data(rows),
        .values = values.mutable_data_ptr(),
        .geometry = as_row(geometry),
        .type = floating_element_type(op, map),
        .overlap = Overlap::kAdd,
    };
    run(map, SEGEXT_KERNEL(GatherParams, gather), params);
  }
  return values;
}

SEGEXT_REGISTER(library) {
  library.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  library.impl("relu_max_pool2d", TORCH_BOX(&relu_max_pool2d));
  library.impl("max_pool2d_backward", TORCH_BOX(&max_pool2d_backward));
  library.impl("max_pool2d_backward_out", TORCH_BOX(&max_pool2d_backward_out));
  library.impl("max_pool2d_double_backward", TORCH_BOX(&max_pool2d_double_backward));
}

}  // namespace
}  // namespace segext::ops
