// max_pool2d, relu_max_pool2d and their backwards, for every device that has kernels.
#include "../kernels/max_pool2d.h"

#include <optional>
#include <tuple>

#include "switch_moves.h"

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

constexpr Move kBackward{"max_pool2d_backward", "grad_output", "input_size", Overlap::kAdd};
constexpr Move kBackwardOut{"max_pool2d_backward_out", "grad_output", "input_size", Overlap::kAdd};
constexpr Move kDoubleBackward{"max_pool2d_double_backward", "grad_grad_input", "output_size", Overlap::kAdd};

Tensor max_pool2d_backward(const Tensor& grad_output, const Tensor& codes, const std::optional<Tensor> relu_output,
                           const Ints input_size, const Ints kernel_size, const Ints stride, const Ints padding,
                           const Ints dilation, bool channels_last) {
  const Window window = make_window(kBackward.op, kernel_size, stride, padding, dilation);
  return scattered(kBackward, grad_output, codes, relu_output, input_size, window, channels_last);
}

void max_pool2d_backward_out(const Tensor& grad_output, const Tensor& codes, const std::optional<Tensor> relu_output,
                             const Ints input_size, const Ints kernel_size, const Ints stride, const Ints padding,
                             const Ints dilation, bool channels_last, Tensor out) {
  const Window window = make_window(kBackwardOut.op, kernel_size, stride, padding, dilation);
  scatter_to(out, kBackwardOut, grad_output, codes, relu_output, input_size, window, channels_last);
}

Tensor max_pool2d_double_backward(const Tensor& grad_grad_input, const Tensor& codes,
                                  const std::optional<Tensor> relu_output, const Ints output_size,
                                  const Ints kernel_size, const Ints stride, const Ints padding, const Ints dilation,
                                  bool channels_last) {
  const Window window = make_window(kDoubleBackward.op, kernel_size, stride, padding, dilation);
  return gathered(kDoubleBackward, grad_grad_input, codes, relu_output, output_size, window, channels_last);
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
