// Fused unpooling and 3x3 convolution for every device that has kernels, and its backward op for the CPU. On other
// devices ops.py composes the backward from other ops.
#include "../kernels/unpool_conv2d.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <type_traits>

#include "pooling.h"
#include "upsampling.h"

namespace segext::ops {
namespace {

// A 3x3 weight, seen as the weight of a transposed convolution.
struct Weight3x3 {
  Tensor weight;
  ElementType type;
  int64_t channels, outputs;
  bool transposed;

  Weight3x3(const char* op, const Tensor& weight, bool transposed)
      : weight(weight), type(floating_element_type(op, weight)), transposed(transposed) {
    const Ints sizes = sizes_of(weight);
    SEGEXT_CHECK(sizes.size() == 4 && sizes[2] == 3 && sizes[3] == 3 && sizes[0] > 0 && sizes[1] > 0, op,
                 ": weight of size ", text(sizes), " is no 3x3 kernel");
    channels = sizes[transposed ? 0 : 1];
    outputs = sizes[transposed ? 1 : 0];
  }

  // A view of the weight itself, or of a tensor with its sizes.
  template <typename Byte>
  auto view_of(const Tensor& tensor, Byte* data) const {
    Ints strides(4);
    for (int dim = 0; dim < 4; ++dim) strides[dim] = tensor.stride(dim);
    int64_t row = strides[2], column = strides[3];
    if (!transposed) {
      data += (2 * row + 2 * column) * static_cast<int64_t>(tensor.element_size());
      row = -row;
      column = -column;
    }
    using Data = std::conditional_t<std::is_const_v<Byte>, const void, void>;
    return StridedWeight<Data>{data, strides[transposed ? 0 : 1], strides[transposed ? 1 : 0], row, column};
  }

  WeightView view() const { return view_of(weight, static_cast<const char*>(weight.const_data_ptr())); }

  Tensor sums(int64_t elements) const {
    return empty(weight, {elements}, type == ElementType::kFloat64 ? ScalarType::Double : ScalarType::Float);
  }

  // The weight packed in the order in which the device's kernels read it. On CUDA every block reads it, in whole
  // vectors. `more` elements are left free at the end.
  Tensor packed(int64_t more = 0) const {
    const int64_t elements =
        weight.is_cpu() ? panel_elements(channels, outputs) : cuda_panel_elements(channels, outputs);
    const Tensor panels = sums(elements + more);
    const PackWeightPanelsParams params{view(), channels, outputs, panels.mutable_data_ptr(), type};
    run(panels, SEGEXT_KERNEL(PackWeightPanelsParams, pack_weight_panels), params);
    return panels;
  }

  // The weight packed for later calls. The sign of one extra element tells whether it was packed for a transposed or a
  // plain convolution: with as many channels as outputs, the size alone does not.
  Tensor packed_to_stay() const {
    const Tensor panels = packed(1);
    if (type == ElementType::kFloat64) {
      mark<double>(panels);
    } else {
      mark<float>(panels);
    }
    return panels;
  }

  // Unpacks panels into `to`, which has the weight's sizes.
  void unpack(const Tensor& panels, const Tensor& to) const {
    const StridedWeight<void> view = view_of(to, static_cast<char*>(to.mutable_data_ptr()));
    const UnpackWeightPanelsParams params{view, channels, outputs, panels.const_data_ptr(), type};
    run(panels, SEGEXT_CPU_KERNEL(UnpackWeightPanelsParams, unpack_weight_panels), params);
  }

  void check_packed(const char* op, const Tensor& panels) const {
    check_device(op, "packed_weight", panels, "weight", weight);
    SEGEXT_CHECK(weight.is_cpu(), op, ": packed_weight is for the CPU's kernels alone");
    SEGEXT_CHECK(panels.dim() == 1 && panels.size(0) == panel_elements(channels, outputs) + 1 &&
                     panels.scalar_type() == sums(0).scalar_type() && panels.stride(0) == 1,
                 op, ": packed_weight of size ", text(sizes_of(panels)), " was not packed from a weight of size ",
                 text(sizes_of(weight)), " and this type");
    const bool marked = type == ElementType::kFloat64 ? is_marked<double>(panels) : is_marked<float>(panels);
    SEGEXT_CHECK(marked == transposed, op, ": packed_weight was packed for a ", transposed ? "plain" : "transposed",
                 " convolution");
  }

 private:
  template <class Sum>
  void mark(const Tensor& panels) const {
    static_cast<Sum*>(panels.mutable_data_ptr())[panels.size(0) - 1] = transposed ? Sum{1} : Sum{-1};
  }

  template <class Sum>
  static bool is_marked(const Tensor& panels) {
    return static_cast<const Sum*>(panels.const_data_ptr())[panels.size(0) - 1] > 0;
  }
};

// The checks that forward and backward share, and the tensors in the form that their kernels read.
struct CheckedUnpoolConv {
  Weight3x3 kernel;
  Tensor input, codes;
  UnpoolConv geometry;

  CheckedUnpoolConv(const char* op, const Tensor& input, const Tensor& codes, const Tensor& weight,
                    const Ints& unpooled_size, const Ints& padding, bool transposed, bool channels_last)
      : kernel(op, weight, transposed), input(dense(input, channels_last)) {
    SEGEXT_CHECK(input.dim() == 4, op, ": expected a 4D input, but got ", text(sizes_of(input)));
    check_map(op, "input", input);
    check_spatial_size(op, "unpooled_size", unpooled_size);
    check_device(op, "codes", codes, "input", input);
    check_like(op, "weight", weight, "input", input);
    SEGEXT_CHECK(padding.size() == 2 && padding[0] >= 0 && padding[0] <= 2 && padding[1] >= 0 && padding[1] <= 2, op,
                 ": padding should be two values from 0 to 2, but got ", text(padding));
    SEGEXT_CHECK(kernel.channels == input.size(1), op, ": weight of size ", text(sizes_of(weight)),
                 " is no 3x3 kernel for input of size ", text(sizes_of(input)));
    const Window window{2, 2, 2, 2, 0, 0, 1, 1};
    geometry.pool = make_geometry(op, window, sizes_of(input), unpooled_size, spatial_size(input), channels_last);
    geometry.outputs = kernel.outputs;
    geometry.padding_h = transposed ? padding[0] : 2 - padding[0];
    geometry.padding_w = transposed ? padding[1] : 2 - padding[1];
    geometry.output_height = unpooled_size[0] + 2 - 2 * geometry.padding_h;
    geometry.output_width = unpooled_size[1] + 2 - 2 * geometry.padding_w;
    SEGEXT_CHECK(geometry.output_height > 0 && geometry.output_width > 0, op, ": an unpooled map of ",
                 text(unpooled_size), " is too small for a 3x3 kernel with padding ", text(padding));
    this->codes = checked_codes(op, codes, true, geometry.pool);
  }

  Ints output_sizes() const {
    return {geometry.pool.samples, geometry.outputs, geometry.output_height, geometry.output_width};
  }
};

Tensor unpool_conv2d_pack(const Tensor& weight, bool transposed) {
  return Weight3x3("unpool_conv2d_pack", weight, transposed).packed_to_stay();
}

Tensor unpool_conv2d(const Tensor& input, const Tensor& codes, const Tensor& weight,
                     const std::optional<Tensor> packed_weight, const std::optional<Tensor> bias,
                     const Ints unpooled_size, const Ints padding, bool transposed, bool channels_last) {
  constexpr const char* op = "unpool_conv2d";
  const CheckedUnpoolConv call(op, input, codes, weight, unpooled_size, padding, transposed, channels_last);
  check_bias(op, bias, input, call.geometry.outputs);
  if (packed_weight.has_value()) call.kernel.check_packed(op, *packed_weight);
  std::optional<Tensor> added;
  if (bias.has_value()) added = dense(*bias, false);
  Tensor output = empty(input, call.output_sizes(), input.scalar_type(), channels_last);
  if (output.numel() > 0) {
    std::optional<Tensor> panels = packed_weight;
    std::optional<Tensor> channels_last_scratch;
    if (!input.is_cpu()) {
      panels = call.kernel.packed();
      const int64_t bytes = cuda_channels_last_bytes(call.geometry, call.kernel.type);
      if (bytes > 0) channels_last_scratch = empty(input, {bytes}, ScalarType::Byte);
    }
    const UnpoolConv2dParams params{
        .input = call.input.const_data_ptr(),
        .codes = code_data(call.codes),
        .weight = call.kernel.view(),
        .panels = panels.has_value() ? panels->const_data_ptr() : nullptr,
        .bias = added.has_value() ? added->const_data_ptr() : nullptr,
        .output = output.mutable_data_ptr(),
        .channels_last_scratch =
            channels_last_scratch.has_value() ? channels_last_scratch->mutable_data_ptr() : nullptr,
        .geometry = call.geometry,
        .type = call.kernel.type,
    };
    run(output, SEGEXT_KERNEL(UnpoolConv2dParams, unpool_conv2d), params);
  }
  return output;
}

std::tuple<Tensor, Tensor> unpool_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& codes,
                                                  const Tensor& weight, const Ints unpooled_size, const Ints padding,
                                                  bool transposed, bool channels_last, bool needs_input,
                                                  bool needs_weight) {
  constexpr const char* op = "unpool_conv2d_backward";
  const CheckedUnpoolConv call(op, input, codes, weight, unpooled_size, padding, transposed, channels_last);
  check_like(op, "grad_output", grad_output, "input", input);
  SEGEXT_CHECK(sizes_of(grad_output) == call.output_sizes(), op, ": grad_output of shape ", text(sizes_of(grad_output)),
               " should have shape ", text(call.output_sizes()));
  const UnpoolConv& geometry = call.geometry;
  const Weight3x3& kernel = call.kernel;
  const Tensor grad = dense(grad_output, channels_last);
  Tensor grad_input =
      empty(input, needs_input ? sizes_of(input) : Ints{0}, input.scalar_type(), channels_last && needs_input);
  Tensor grad_weight = empty(input, needs_weight ? sizes_of(weight) : Ints{0}, input.scalar_type());
  Tensor weight_sums = kernel.sums(needs_weight ? panel_elements(kernel.channels, kernel.outputs) : 0);
  if (needs_weight) torch::stable::zero_(weight_sums);
  if ((needs_input || needs_weight) && grad.numel() > 0) {
    const Tensor panels = needs_input ? kernel.packed() : kernel.sums(0);
    const Tensor grad_panels = kernel.sums(grad_panel_elements(geometry));
    UnpoolConv2dBackwardParams params{
        .grad_output = grad.const_data_ptr(),
        .input = call.input.const_data_ptr(),
        .codes = code_data(call.codes),
        .panels = panels.const_data_ptr(),
        .grad_panels = grad_panels.mutable_data_ptr(),
        .grad_input = needs_input ? grad_input.mutable_data_ptr() : nullptr,
        .grad_weight_panels = needs_weight ? weight_sums.mutable_data_ptr() : nullptr,
        .geometry = geometry,
        .sample = 0,
        .type = kernel.type,
    };
    for (; params.sample < geometry.pool.samples; ++params.sample) {
      run(grad, SEGEXT_CPU_KERNEL(UnpoolConv2dBackwardParams, pack_grad_panels), params);
      run(grad, SEGEXT_CPU_KERNEL(UnpoolConv2dBackwardParams, unpool_conv2d_backward), params);
    }
  }
  if (needs_weight) kernel.unpack(weight_sums, grad_weight);
  return {grad_input, grad_weight};
}

SEGEXT_REGISTER(library) { library.impl("unpool_conv2d", TORCH_BOX(&unpool_conv2d)); }

STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) {
  library.impl("unpool_conv2d_pack", TORCH_BOX(&unpool_conv2d_pack));
  library.impl("unpool_conv2d_backward", TORCH_BOX(&unpool_conv2d_backward));
}

}  // namespace
}  // namespace segext::ops
