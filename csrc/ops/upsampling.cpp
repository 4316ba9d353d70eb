// Checks of upsampling calls, and sums of their gradients: see upsampling.h.
#include "upsampling.h"

namespace segext::ops {
namespace {

constexpr int64_t kMostSize = std::numeric_limits<int32_t>::max();

}  // namespace

void check_pair(const char* op, const char* name, const Ints& values, int64_t least, int64_t most) {
  const auto fits = [&](int64_t value) { return value >= least && value <= most; };
  SEGEXT_CHECK(values.size() == 2 && fits(values[0]) && fits(values[1]), op, ": ", name, " should be two values from ",
               least, " to ", most, ", but got ", text(values));
}

void check_kernel(const char* op, const Tensor& input, const Tensor& weight, const Ints& dilation) {
  SEGEXT_CHECK(input.dim() == 4 && weight.dim() == 4, op, ": expected 4D input and weight, but got ",
               text(sizes_of(input)), " and ", text(sizes_of(weight)));
  const Ints sizes = sizes_of(input), kernel = sizes_of(weight);
  SEGEXT_CHECK(kernel[0] == sizes[1], op, ": weight of size ", text(kernel), " expected input to have ", kernel[0],
               " channels, but got ", sizes[1], " channels instead");
  for (int dim = 1; dim < 4; ++dim) {
    SEGEXT_CHECK(sizes[dim] > 0 && kernel[dim] > 0, op, ": input ", text(sizes), " and weight ", text(kernel),
                 " should have no empty dimension but the batch");
    SEGEXT_CHECK(sizes[dim] <= kMostSize && kernel[dim] <= kMostSize, op, ": input ", text(sizes), " and weight ",
                 text(kernel), " should have no dimension above ", kMostSize, " but the batch");
  }
  SEGEXT_CHECK(kernel[2] - 1 <= kMaxReach / dilation[0] && kernel[3] - 1 <= kMaxReach / dilation[1], op,
               ": (kernel size - 1) * dilation should be at most ", kMaxReach, ", but weight is of size ", text(kernel),
               " and dilation ", text(dilation));
  check_like(op, "weight", weight, "input", input);
}

void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& input, int64_t outputs) {
  if (!bias.has_value()) return;
  check_like(op, "bias", *bias, "input", input);
  SEGEXT_CHECK(sizes_of(*bias) == Ints{outputs}, op, ": bias should be of size ", text({outputs}), ", but is of ",
               text(sizes_of(*bias)));
}

Upsampling make_upsampling(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                           const Ints& output_size, const Ints& stride, const Ints& origin, const Ints& dilation,
                           bool channels_last) {
  check_pair(op, "output_size", output_size, 0);
  check_pair(op, "stride", stride, 1, kMaxReach);
  check_pair(op, "origin", origin, 0);
  check_pair(op, "dilation", dilation, 1);
  const Ints sizes = sizes_of(input), kernel = sizes_of(weight);
  check_kernel(op, input, weight, dilation);
  check_bias(op, bias, input, kernel[0] * kernel[1]);
  return {
      .samples = sizes[0],
      .channels = kernel[0] * kernel[1],
      .multiplier = kernel[1],
      .height = sizes[2],
      .width = sizes[3],
      .output_height = output_size[0],
      .output_width = output_size[1],
      .kernel_h = kernel[2],
      .kernel_w = kernel[3],
      .stride_h = stride[0],
      .stride_w = stride[1],
      .origin_h = origin[0],
      .origin_w = origin[1],
      .dilation_h = dilation[0],
      .dilation_w = dilation[1],
      .channels_last = channels_last,
  };
}

DenseOperands::DenseOperands(const char* op, const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& bias, bool channels_last)
    : input(dense(input, channels_last)), weight(dense(weight, false)), type(floating_element_type(op, input)) {
  if (bias.has_value()) this->bias = dense(*bias, false);
}

UpsamplingOperands DenseOperands::data(const Upsampling& geometry) const {
  return {
      .input = input.const_data_ptr(),
      .weight = weight.const_data_ptr(),
      .bias = bias.has_value() ? bias->const_data_ptr() : nullptr,
      .geometry = geometry,
      .type = type,
  };
}

ScalarType sum_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

GradientParts gradient_parts(const Tensor& tensor, const Upsampling& geometry, const PartCounts& counts) {
  return tensor.is_cpu() ? counts.cpu(geometry) : counts.cuda(geometry);
}

Parts::Parts(bool needed, const Tensor& input, const Ints& size, int64_t count)
    : needed_(needed),
      count_(count),
      total_(empty(input, needed ? size : Ints{0}, input.scalar_type())),
      parts_(empty(input, {needed ? count * total_.numel() : 0}, sum_type(input))) {}

void* Parts::data() const { return needed_ ? parts_.mutable_data_ptr() : nullptr; }

Tensor Parts::total(const char* op) const {
  if (needed_ && total_.numel() > 0) {
    const SumPartsParams params{parts_.const_data_ptr(), total_.mutable_data_ptr(), count_, total_.numel(),
                                floating_element_type(op, total_)};
    run(total_, SEGEXT_KERNEL(SumPartsParams, sum_parts), params);
  }
  return total_;
}

}  // namespace segext::ops
