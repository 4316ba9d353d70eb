// The cross-entropy of upsampled scores, and its gradients. CPU only: elsewhere conv_transpose2d.py has stock's.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../kernels/depthwise_cross_entropy.h"
#include "pooling.h"
#include "upsampling.h"

namespace segext::ops {
namespace {

ScalarType sum_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

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
  STD_TORCH_CHECK(target.scalar_type() == ScalarType::Long, op, ": target should be int64, but is ",
                  torch::headeronly::toString(target.scalar_type()));
  STD_TORCH_CHECK(target.dim() == 3 && input.dim() == 4 && target.size(0) == input.size(0), op, ": target of size ",
                  text(sizes_of(target)), " does not fit input of size ", text(sizes_of(input)));
  const Upsampling geometry =
      make_upsampling(op, input, weight, bias, spatial_size(target), stride, origin, dilation, channels_last);
  if (class_weight.has_value()) {
    check_device(op, "class_weight", *class_weight, "input", input);
    STD_TORCH_CHECK(
        class_weight->scalar_type() == sum_type(input) && sizes_of(*class_weight) == Ints{geometry.channels}, op,
        ": class_weight should be ", torch::headeronly::toString(sum_type(input)), " of size ",
        text({geometry.channels}), ", but is ", torch::headeronly::toString(class_weight->scalar_type()), " of ",
        text(sizes_of(*class_weight)));
  }
  STD_TORCH_CHECK(label_smoothing <= 1, op, ": label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
  Call call{
      geometry,       Operands(input, weight, bias, channels_last), dense(target, false), std::nullopt, ignore_index,
      label_smoothing};
  if (class_weight.has_value()) call.class_weight = dense(*class_weight, false);
  return call;
}

// A tensor of one value.
Tensor scalar(const Tensor& like, double value) {
  Tensor result = empty(like, {}, sum_type(like));
  torch::stable::fill_(result, value);
  return result;
}

std::tuple<Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias, const Tensor& target,
    const std::optional<Tensor> class_weight, const Ints stride, const Ints origin, const Ints dilation,
    int64_t ignore_index, double label_smoothing, bool channels_last, bool reduce) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy";
  const Call call = make_call(op, input, weight, bias, target, class_weight, stride, origin, dilation, ignore_index,
                              label_smoothing, channels_last);
  const Upsampling& g = call.geometry;
  Tensor losses = empty(input, reduce ? Ints{0} : sizes_of(target), sum_type(input));
  std::vector<LossRow> rows(target.numel() > 0 ? g.samples * g.output_height : 0);
  if (!rows.empty()) {
    const DepthwiseCrossEntropyParams params{call.scores(op), call.criterion(),
                                             reduce ? nullptr : losses.mutable_data_ptr(), rows.data()};
    run(target, SEGEXT_CPU_KERNEL(DepthwiseCrossEntropyParams, depthwise_cross_entropy), params);
  }
  double loss = 0, total_weight = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    STD_TORCH_CHECK(rows[r].invalid < 0, "Target ", call.criterion().target[r * g.output_width + rows[r].invalid],
                    " is out of bounds.");
    loss += rows[r].loss;
    total_weight += rows[r].weight;
  }
  return {reduce ? scalar(input, loss) : losses, scalar(input, total_weight)};
}

// Room for a gradient that comes in parts, one for each row of input, and their sum.
class Parts {
 public:
  Parts(bool needed, const Tensor& input, const Ints& size, int64_t count)
      : needed_(needed),
        count_(count),
        total_(empty(input, needed ? size : Ints{0}, input.scalar_type())),
        parts_(empty(input, {needed ? count * total_.numel() : 0}, sum_type(input))) {}

  void* data() const { return needed_ ? parts_.mutable_data_ptr() : nullptr; }

  Tensor total(const char* op) const {
    if (needed_ && total_.numel() > 0) {
      const SumPartsParams params{parts_.const_data_ptr(), total_.mutable_data_ptr(), count_, total_.numel(),
                                  floating_element_type(op, total_)};
      run(total_, SEGEXT_CPU_KERNEL(SumPartsParams, sum_parts), params);
    }
    return total_;
  }

 private:
  bool needed_;
  int64_t count_;
  Tensor total_, parts_;
};

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias,
    const Tensor& target, const std::optional<Tensor> class_weight, const Ints stride, const Ints origin,
    const Ints dilation, int64_t ignore_index, double label_smoothing, bool channels_last, bool needs_input,
    bool needs_weight, bool needs_bias) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy_backward";
  const Call call = make_call(op, input, weight, bias, target, class_weight, stride, origin, dilation, ignore_index,
                              label_smoothing, channels_last);
  const bool one_value = grad_loss.dim() == 0;
  STD_TORCH_CHECK(grad_loss.scalar_type() == sum_type(input) && (one_value || sizes_of(grad_loss) == sizes_of(target)),
                  op, ": grad_loss should be ", torch::headeronly::toString(sum_type(input)), ", one value or of size ",
                  text(sizes_of(target)), ", but is ", torch::headeronly::toString(grad_loss.scalar_type()), " of ",
                  text(sizes_of(grad_loss)));
  check_device(op, "grad_loss", grad_loss, "input", input);
  const Upsampling& g = call.geometry;
  const int64_t count = target.numel() > 0 ? g.samples * g.height : 0;
  const Tensor grad = dense(grad_loss, false);
  const Tensor grad_input =
      empty(input, needs_input ? sizes_of(input) : Ints{0}, input.scalar_type(), needs_input && channels_last);
  const Parts weights(needs_weight, input, sizes_of(weight), count);
  const Parts biases(needs_bias, input, {g.channels}, count);
  if (count > 0) {
    const UpsamplingGradients gradients{needs_input ? grad_input.mutable_data_ptr() : nullptr, weights.data(),
                                        biases.data()};
    const DepthwiseCrossEntropyBackwardParams params{call.scores(op), call.criterion(), grad.const_data_ptr(),
                                                     one_value, gradients};
    run(target, SEGEXT_CPU_KERNEL(DepthwiseCrossEntropyBackwardParams, depthwise_cross_entropy_backward), params);
  }
  return {grad_input, weights.total(op), biases.total(op)};
}

STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) {
  library.impl("depthwise_conv_transpose2d_cross_entropy", TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy));
  library.impl("depthwise_conv_transpose2d_cross_entropy_backward",
               TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy_backward));
}

}  // namespace
}  // namespace segext::ops
