// Unpooling and 3x3 convolution in one, and its backward. CPU only: elsewhere unpool_conv2d.py composes the two.
#include "../kernels/unpool_conv2d.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "pooling.h"
#include "upsampling.h"

namespace segext::ops {
namespace {

// What both directions check, and the tensors as their kernels read them.
struct Call {
  Tensor input, codes, weight;
  UnpoolConv geometry;
  ElementType type;
  bool transposed;

  Call(const char* op, const Tensor& input, const Tensor& codes, const Tensor& weight, const Ints& unpooled_size,
       const Ints& padding, bool transposed, bool channels_last)
      : input(dense(input, channels_last)),
        codes(codes),
        weight(weight),
        type(floating_element_type(op, input)),
        transposed(transposed) {
    STD_TORCH_CHECK(input.dim() == 4, op, ": expected a 4D input, but got ", text(sizes_of(input)));
    check_map(op, "input", input);
    check_spatial_size(op, "unpooled_size", unpooled_size);
    check_device(op, "codes", codes, "input", input);
    check_like(op, "weight", weight, "input", input);
    STD_TORCH_CHECK(padding.size() == 2 && padding[0] >= 0 && padding[0] <= 2 && padding[1] >= 0 && padding[1] <= 2, op,
                    ": padding should be two values from 0 to 2, but got ", text(padding));
    const Ints sizes = sizes_of(weight);
    STD_TORCH_CHECK(sizes.size() == 4 && sizes[2] == 3 && sizes[3] == 3 && sizes[transposed ? 1 : 0] > 0 &&
                        sizes[transposed ? 0 : 1] == input.size(1),
                    op, ": weight of size ", text(sizes), " is no 3x3 kernel for input of size ",
                    text(sizes_of(input)));
    const Window window{2, 2, 2, 2, 0, 0, 1, 1};
    geometry.pool = make_geometry(window, sizes_of(input), unpooled_size, spatial_size(input), channels_last);
    geometry.outputs = sizes[transposed ? 1 : 0];
    geometry.padding_h = transposed ? padding[0] : 2 - padding[0];
    geometry.padding_w = transposed ? padding[1] : 2 - padding[1];
    geometry.output_height = unpooled_size[0] + 2 - 2 * geometry.padding_h;
    geometry.output_width = unpooled_size[1] + 2 - 2 * geometry.padding_w;
    STD_TORCH_CHECK(geometry.output_height > 0 && geometry.output_width > 0, op, ": an unpooled map of ",
                    text(unpooled_size), " is too small for a 3x3 kernel with padding ", text(padding));
    this->codes = checked_codes(op, codes, true, geometry.pool);
  }

  Ints output_sizes() const {
    return {geometry.pool.samples, geometry.outputs, geometry.output_height, geometry.output_width};
  }

  // A tensor of the weight's sizes, as the kernel of a transposed convolution.
  WeightView view_of(const Tensor& tensor, void* data) const {
    Ints strides(4);
    for (int dim = 0; dim < 4; ++dim) strides[dim] = tensor.stride(dim);
    WeightView view{data, strides[transposed ? 0 : 1], strides[transposed ? 1 : 0], strides[2], strides[3]};
    if (!transposed) {
      const int64_t last = (2 * view.row_stride + 2 * view.column_stride) * static_cast<int64_t>(tensor.element_size());
      view = {static_cast<char*>(data) + last, view.channel_stride, view.output_stride, -view.row_stride,
              -view.column_stride};
    }
    return view;
  }

  WeightPanelParams weight_params(const Tensor& tensor, void* data, const Tensor& panels) const {
    return {view_of(tensor, data), geometry.pool.channels, geometry.outputs, panels.mutable_data_ptr(), type};
  }

  Tensor sums(int64_t elements) const {
    return empty(input, {elements}, type == ElementType::kFloat64 ? ScalarType::Double : ScalarType::Float);
  }

  Tensor packed_weight() const {
    const Tensor panels = sums(panel_elements(geometry.pool.channels, geometry.outputs));
    run(input, SEGEXT_CPU_KERNEL(WeightPanelParams, pack_weight_panels),
        weight_params(weight, const_cast<void*>(weight.const_data_ptr()), panels));
    return panels;
  }
};

Tensor unpool_conv2d(const Tensor& input, const Tensor& codes, const Tensor& weight, const std::optional<Tensor> bias,
                     const Ints unpooled_size, const Ints padding, bool transposed, bool channels_last) {
  constexpr const char* op = "unpool_conv2d";
  const Call call(op, input, codes, weight, unpooled_size, padding, transposed, channels_last);
  check_bias(op, bias, input, call.geometry.outputs);
  std::optional<Tensor> added;
  if (bias.has_value()) added = dense(*bias, false);
  Tensor output = empty(input, call.output_sizes(), input.scalar_type(), channels_last);
  if (output.numel() > 0) {
    const UnpoolConv2dParams params{call.input.const_data_ptr(),
                                    code_data(call.codes),
                                    call.view_of(weight, const_cast<void*>(weight.const_data_ptr())),
                                    nullptr,
                                    added.has_value() ? added->const_data_ptr() : nullptr,
                                    output.mutable_data_ptr(),
                                    call.geometry,
                                    call.type};
    run(output, SEGEXT_CPU_KERNEL(UnpoolConv2dParams, unpool_conv2d), params);
  }
  return output;
}

std::tuple<Tensor, Tensor> unpool_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& codes,
                                                  const Tensor& weight, const Ints unpooled_size, const Ints padding,
                                                  bool transposed, bool channels_last, bool wants_input,
                                                  bool wants_weight) {
  constexpr const char* op = "unpool_conv2d_backward";
  const Call call(op, input, codes, weight, unpooled_size, padding, transposed, channels_last);
  check_like(op, "grad_output", grad_output, "input", input);
  STD_TORCH_CHECK(sizes_of(grad_output) == call.output_sizes(), op, ": grad_output of shape ",
                  text(sizes_of(grad_output)), " should have shape ", text(call.output_sizes()));
  const UnpoolConv& geometry = call.geometry;
  const Tensor grad = dense(grad_output, channels_last);
  Tensor grad_input =
      empty(input, wants_input ? sizes_of(input) : Ints{0}, input.scalar_type(), channels_last && wants_input);
  Tensor grad_weight = empty(input, wants_weight ? sizes_of(weight) : Ints{0}, input.scalar_type());
  Tensor weight_sums = call.sums(wants_weight ? panel_elements(geometry.pool.channels, geometry.outputs) : 0);
  if (wants_weight) torch::stable::zero_(weight_sums);
  if ((wants_input || wants_weight) && grad.numel() > 0) {
    const Tensor panels = wants_input ? call.packed_weight() : call.sums(0);
    const Tensor grad_panels = call.sums(grad_panel_elements(geometry));
    UnpoolConv2dBackwardParams params{grad.const_data_ptr(),
                                      call.input.const_data_ptr(),
                                      code_data(call.codes),
                                      panels.const_data_ptr(),
                                      grad_panels.mutable_data_ptr(),
                                      wants_input ? grad_input.mutable_data_ptr() : nullptr,
                                      wants_weight ? weight_sums.mutable_data_ptr() : nullptr,
                                      geometry,
                                      0,
                                      call.type};
    for (; params.sample < geometry.pool.samples; ++params.sample) {
      run(grad, SEGEXT_CPU_KERNEL(UnpoolConv2dBackwardParams, pack_grad_panels), params);
      run(grad, SEGEXT_CPU_KERNEL(UnpoolConv2dBackwardParams, unpool_conv2d_backward), params);
    }
  }
  if (wants_weight) {
    run(grad, SEGEXT_CPU_KERNEL(WeightPanelParams, unpack_weight_panels),
        call.weight_params(grad_weight, grad_weight.mutable_data_ptr(), weight_sums));
  }
  return {grad_input, grad_weight};
}

STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) {
  library.impl("unpool_conv2d", TORCH_BOX(&unpool_conv2d));
  library.impl("unpool_conv2d_backward", TORCH_BOX(&unpool_conv2d_backward));
}

}  // namespace
}  // namespace segext::ops
