// The cross-entropy of upsampled scores, and its gradients, for every device that has kernels.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../kernels/depthwise_cross_entropy.h"
#include "upsampling.h"

namespace segext::ops {
namespace {

// A call checked, its tensors dense.
struct Call {
  Upsampling geometry;
  Operands operands;
  Tensor target;
  std::optional<Tensor> class_weight;
  int64_t ignore_index;
  double label_smoothing;

  DepthwiseConvTranspose2dParams scores(const char* op) const { return operands.params(op, geometry); }
  CrossEntropy criterion() const {
    return {static_cast<const int64_t*>(target.const_data_ptr()),
            class_weight.has_value() ? class_weight->const_data_ptr() : nullptr, ignore_index, label_smoothing};
  }
};

Call make_call(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               const Tensor& target, const std::optional<Tensor>& class_weight, const Ints& stride, const Ints& origin,
               const Ints& dilation, int64_t ignore_index, double label_smoothing, bool channels_last) {
  check_device(op, "target", target, "input", input);
  SEGEXT_CHECK(target.scalar_type() == ScalarType::Long, op, ": target should be int64, but is ",
               torch::headeronly::toString(target.scalar_type()));
  SEGEXT_CHECK(target.dim() == 3 && input.dim() == 4 && target.size(0) == input.size(0), op, ": target of size ",
               text(sizes_of(target)), " does not fit input of size ", text(sizes_of(input)));
  const Upsampling geometry =
      make_upsampling(op, input, weight, bias, spatial_size(target), stride, origin, dilation, channels_last);
  if (class_weight.has_value()) {
    check_device(op, "class_weight", *class_weight, "input", input);
    SEGEXT_CHECK(class_weight->scalar_type() == sum_type(input) && sizes_of(*class_weight) == Ints{geometry.channels},
                 op, ": class_weight should be ", torch::headeronly::toString(sum_type(input)), " of size ",
                 text({geometry.channels}), ", but is ", torch::headeronly::toString(class_weight->scalar_type()),
                 " of ", text(sizes_of(*class_weight)));
  }
  SEGEXT_CHECK(label_smoothing <= 1, op, ": label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
  Call call{
      geometry,       Operands(input, weight, bias, channels_last), dense(target, false), std::nullopt, ignore_index,
      label_smoothing};
  if (class_weight.has_value()) call.class_weight = dense(*class_weight, false);
  return call;
}

// In how many parts CUDA kernels leave totals.
#if defined(SEGEXT_WITH_CUDA)
int64_t cuda_parts(const Upsampling& geometry, ElementType type) {
  return depthwise_cross_entropy_cuda_parts(geometry, type);
}
#else
int64_t cuda_parts(const Upsampling&, ElementType) { return 0; }
#endif

// What the op gives: losses, of each pixel or their sum, and the weight of the pixels that count.
struct Losses {
  Tensor loss, weight;
  bool reduce;

  Losses(const Tensor& input, const Tensor& target, bool reduce)
      : loss(empty(input, reduce ? Ints{} : sizes_of(target), sum_type(input))),
        weight(empty(input, {}, sum_type(input))),
        reduce(reduce) {}

  void* of_pixels() const { return reduce ? nullptr : loss.mutable_data_ptr(); }

  void fill(double loss_sum, double weight_sum) {
    if (reduce) torch::stable::fill_(loss, loss_sum);
    torch::stable::fill_(weight, weight_sum);
  }
};

// Adds rows up here, where a target that is invalid is an error.
void run_on_cpu(const char* op, const Call& call, Losses* out) {
  const Upsampling& g = call.geometry;
  std::vector<LossRow> rows(g.samples * g.output_height);
  const DepthwiseCrossEntropyParams params{call.scores(op), call.criterion(), out->of_pixels(), rows.data(), {}};
  run(call.target, SEGEXT_KERNEL(DepthwiseCrossEntropyParams, depthwise_cross_entropy), params);
  double loss = 0, weight = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    SEGEXT_CHECK(rows[r].invalid < 0, "Target ", call.criterion().target[r * g.output_width + rows[r].invalid],
                 " is out of bounds.");
    loss += rows[r].loss;
    weight += rows[r].weight;
  }
  out->fill(loss, weight);
}

// Waits for no values: a target that is invalid counts as ignored.
void run_on_cuda(const char* op, const Call& call, Losses* out) {
  const int64_t blocks = cuda_parts(call.geometry, floating_element_type(op, call.operands.input));
  const Tensor parts = empty(call.operands.input, {blocks, 2}, ScalarType::Double);
  const LossTotals totals{out->reduce ? out->loss.mutable_data_ptr() : nullptr, out->weight.mutable_data_ptr(),
                          static_cast<double*>(parts.mutable_data_ptr())};
  const DepthwiseCrossEntropyParams params{call.scores(op), call.criterion(), out->of_pixels(), nullptr, totals};
  run(call.target, SEGEXT_KERNEL(DepthwiseCrossEntropyParams, depthwise_cross_entropy), params);
}

std::tuple<Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias, const Tensor& target,
    const std::optional<Tensor> class_weight, const Ints stride, const Ints origin, const Ints dilation,
    int64_t ignore_index, double label_smoothing, bool channels_last, bool reduce) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy";
  const Call call = make_call(op, input, weight, bias, target, class_weight, stride, origin, dilation, ignore_index,
                              label_smoothing, channels_last);
  Losses losses(input, target, reduce);
  if (target.numel() == 0) {
    losses.fill(0, 0);
  } else if (target.is_cpu()) {
    run_on_cpu(op, call, &losses);
  } else {
    run_on_cuda(op, call, &losses);
  }
  return {losses.loss, losses.weight};
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias,
    const Tensor& target, const std::optional<Tensor> class_weight, const Ints stride, const Ints origin,
    const Ints dilation, int64_t ignore_index, double label_smoothing, bool channels_last, bool needs_input,
    bool needs_weight, bool needs_bias) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy_backward";
  const Call call = make_call(op, input, weight, bias, target, class_weight, stride, origin, dilation, ignore_index,
                              label_smoothing, channels_last);
  const bool one_value = grad_loss.dim() == 0;
  SEGEXT_CHECK(grad_loss.scalar_type() == sum_type(input) && (one_value || sizes_of(grad_loss) == sizes_of(target)), op,
               ": grad_loss should be ", torch::headeronly::toString(sum_type(input)), ", one value or of size ",
               text(sizes_of(target)), ", but is ", torch::headeronly::toString(grad_loss.scalar_type()), " of ",
               text(sizes_of(grad_loss)));
  check_device(op, "grad_loss", grad_loss, "input", input);
  const Upsampling& g = call.geometry;
  const bool any = target.numel() > 0;
  const GradientParts counts =
      any ? gradient_parts(target, g, depthwise_cross_entropy_backward_cpu_parts) : GradientParts{0, 0};
  const Tensor grad = dense(grad_loss, false);
  const Tensor grad_input =
      empty(input, needs_input ? sizes_of(input) : Ints{0}, input.scalar_type(), needs_input && channels_last);
  const Parts weights(needs_weight, input, sizes_of(weight), counts.weight);
  const Parts biases(needs_bias, input, {g.channels}, counts.bias);
  if (!any) {
    torch::stable::fill_(grad_input, 0);
  } else {
    const Tensor normalizers = empty(input, {target.is_cpu() ? 0 : 2 * target.numel()}, sum_type(input));
    const UpsamplingGradients gradients{needs_input ? grad_input.mutable_data_ptr() : nullptr, weights.data(),
                                        biases.data()};
    const DepthwiseCrossEntropyBackwardParams params{call.scores(op), call.criterion(), grad.const_data_ptr(),
                                                     one_value,       gradients,        normalizers.mutable_data_ptr()};
    run(target, SEGEXT_KERNEL(DepthwiseCrossEntropyBackwardParams, depthwise_cross_entropy_backward), params);
  }
  return {grad_input, weights.total(op), biases.total(op)};
}

void register_kernels(torch::stable::detail::StableLibrary& library) {
  library.impl("depthwise_conv_transpose2d_cross_entropy", TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy));
  library.impl("depthwise_conv_transpose2d_cross_entropy_backward",
               TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy_backward));
}

SEGEXT_REGISTER(register_kernels)

}  // namespace
}  // namespace segext::ops
