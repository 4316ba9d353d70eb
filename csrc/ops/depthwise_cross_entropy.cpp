// The cross-entropy of upsampled scores, and its gradients, for every device that has kernels.
#include "../kernels/depthwise_cross_entropy.h"

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "upsampling.h"

namespace segext::ops {
namespace {

// A checked call, with dense tensors. `pixels` is the target or, in the backward op, the labels that stand for it.
struct CheckedLoss {
  Upsampling geometry;
  DenseOperands operands;
  Tensor pixels;
  std::optional<Tensor> class_weight;
  double label_smoothing;

  UpsamplingOperands scores() const { return operands.data(geometry); }
  CrossEntropy criterion() const {
    return {class_weight.has_value() ? class_weight->const_data_ptr() : nullptr, label_smoothing};
  }
};

// Checks that a tensor has this type and size and is on the input's device.
void check_tensor(const char* op, const char* name, const Tensor& tensor, ScalarType type, const Ints& sizes,
                  const Tensor& input) {
  check_device(op, name, tensor, "input", input);
  SEGEXT_CHECK(tensor.scalar_type() == type && sizes_of(tensor) == sizes, op, ": ", name, " should be ",
               torch::headeronly::toString(type), " of size ", text(sizes), ", but is ",
               torch::headeronly::toString(tensor.scalar_type()), " of ", text(sizes_of(tensor)));
}

CheckedLoss checked_loss(const char* op, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                         const char* name, const Tensor& pixels, const std::optional<Tensor>& class_weight,
                         const Ints& stride, const Ints& origin, const Ints& dilation, double label_smoothing,
                         bool channels_last) {
  check_device(op, name, pixels, "input", input);
  SEGEXT_CHECK(pixels.dim() == 3 && input.dim() == 4 && pixels.size(0) == input.size(0), op, ": ", name, " of size ",
               text(sizes_of(pixels)), " does not fit input of size ", text(sizes_of(input)));
  const Upsampling geometry =
      make_upsampling(op, input, weight, bias, spatial_size(pixels), stride, origin, dilation, channels_last);
  if (class_weight.has_value()) {
    check_tensor(op, "class_weight", *class_weight, sum_type(input), {geometry.channels}, input);
  }
  SEGEXT_CHECK(label_smoothing <= 1, op, ": label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
  CheckedLoss call{geometry, DenseOperands(op, input, weight, bias, channels_last), dense(pixels, false), std::nullopt,
                   label_smoothing};
  if (class_weight.has_value()) call.class_weight = dense(*class_weight, false);
  return call;
}

// The number of partial totals that the CUDA kernels write.
#if defined(SEGEXT_WITH_CUDA)
int64_t cuda_parts(const Upsampling& geometry, ElementType type) {
  return depthwise_cross_entropy_cuda_parts(geometry, type);
}
#else
int64_t cuda_parts(const Upsampling&, ElementType) { return 0; }
#endif

ScalarType label_type(int64_t classes) { return has_byte_labels(classes) ? ScalarType::Byte : ScalarType::Int; }

Ints normalizer_sizes(const Tensor& pixels) {
  Ints sizes = sizes_of(pixels);
  sizes.push_back(2);
  return sizes;
}

// What the op returns: the loss of each pixel or the sum of all, the total weight of the pixels that count, and what
// the backward op needs.
struct LossTensors {
  Tensor loss, weight, normalizers, labels;
  bool reduce, keeps;

  LossTensors(const Tensor& input, const Tensor& target, int64_t classes, bool reduce, bool keeps)
      : loss(empty(input, reduce ? Ints{} : sizes_of(target), sum_type(input))),
        weight(empty(input, {}, sum_type(input))),
        normalizers(empty(input, keeps ? normalizer_sizes(target) : Ints{0}, sum_type(input))),
        labels(empty(input, keeps ? sizes_of(target) : Ints{0}, label_type(classes))),
        reduce(reduce),
        keeps(keeps) {}

  // `rows` is for the CPU, `totals` for CUDA.
  DepthwiseCrossEntropyParams params(const CheckedLoss& call, int64_t ignore_index, LossRow* rows,
                                     const LossTotals& totals) const {
    return {
        .scores = call.scores(),
        .criterion = call.criterion(),
        .target = static_cast<const int64_t*>(call.pixels.const_data_ptr()),
        .ignored = ignore_index,
        .losses = reduce ? nullptr : loss.mutable_data_ptr(),
        .normalizers = keeps ? normalizers.mutable_data_ptr() : nullptr,
        .labels = keeps ? labels.mutable_data_ptr() : nullptr,
        .rows = rows,
        .totals = totals,
    };
  }

  void fill(double loss_sum, double weight_sum) {
    if (reduce) torch::stable::fill_(loss, loss_sum);
    torch::stable::fill_(weight, weight_sum);
  }
};

// Adds up the rows on the host, where an invalid target is an error.
void run_on_cpu(const CheckedLoss& call, int64_t ignore_index, LossTensors* out) {
  const Upsampling& g = call.geometry;
  std::vector<LossRow> rows(g.samples * g.output_height);
  const DepthwiseCrossEntropyParams params = out->params(call, ignore_index, rows.data(), {});
  run(call.pixels, SEGEXT_KERNEL(DepthwiseCrossEntropyParams, depthwise_cross_entropy), params);
  double loss = 0, weight = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    SEGEXT_CHECK(rows[r].invalid < 0, "Target ", params.target[r * g.output_width + rows[r].invalid],
                 " is out of bounds.");
    loss += rows[r].loss;
    weight += rows[r].weight;
  }
  out->fill(loss, weight);
}

// Does not wait for the device, so an invalid target cannot be reported: it counts as ignored.
void run_on_cuda(const CheckedLoss& call, int64_t ignore_index, LossTensors* out) {
  const int64_t blocks = cuda_parts(call.geometry, call.operands.type);
  const Tensor parts = empty(call.operands.input, {blocks, 2}, ScalarType::Double);
  const LossTotals totals{out->reduce ? out->loss.mutable_data_ptr() : nullptr, out->weight.mutable_data_ptr(),
                          static_cast<double*>(parts.mutable_data_ptr())};
  run(call.pixels, SEGEXT_KERNEL(DepthwiseCrossEntropyParams, depthwise_cross_entropy),
      out->params(call, ignore_index, nullptr, totals));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias, const Tensor& target,
    const std::optional<Tensor> class_weight, const Ints stride, const Ints origin, const Ints dilation,
    int64_t ignore_index, double label_smoothing, bool channels_last, bool reduce, bool return_normalizers) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy";
  SEGEXT_CHECK(target.scalar_type() == ScalarType::Long, op, ": target should be int64, but is ",
               torch::headeronly::toString(target.scalar_type()));
  const CheckedLoss call = checked_loss(op, input, weight, bias, "target", target, class_weight, stride, origin,
                                        dilation, label_smoothing, channels_last);
  LossTensors losses(input, target, call.geometry.channels, reduce, return_normalizers);
  if (target.numel() == 0) {
    losses.fill(0, 0);
  } else if (target.is_cpu()) {
    run_on_cpu(call, ignore_index, &losses);
  } else {
    run_on_cuda(call, ignore_index, &losses);
  }
  return {losses.loss, losses.weight, losses.normalizers, losses.labels};
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_transpose2d_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& input, const Tensor& weight, const std::optional<Tensor> bias,
    const std::optional<Tensor> class_weight, const Tensor& normalizers, const Tensor& labels, const Ints stride,
    const Ints origin, const Ints dilation, double label_smoothing, bool channels_last, bool needs_input,
    bool needs_weight, bool needs_bias) {
  constexpr const char* op = "depthwise_conv_transpose2d_cross_entropy_backward";
  const CheckedLoss call = checked_loss(op, input, weight, bias, "labels", labels, class_weight, stride, origin,
                                        dilation, label_smoothing, channels_last);
  const Upsampling& g = call.geometry;
  check_tensor(op, "labels", labels, label_type(g.channels), sizes_of(labels), input);
  check_tensor(op, "normalizers", normalizers, sum_type(input), normalizer_sizes(labels), input);
  const bool one_value = grad_loss.dim() == 0;
  SEGEXT_CHECK(grad_loss.scalar_type() == sum_type(input) && (one_value || sizes_of(grad_loss) == sizes_of(labels)), op,
               ": grad_loss should be ", torch::headeronly::toString(sum_type(input)), ", one value or of size ",
               text(sizes_of(labels)), ", but is ", torch::headeronly::toString(grad_loss.scalar_type()), " of ",
               text(sizes_of(grad_loss)));
  check_device(op, "grad_loss", grad_loss, "input", input);
  const bool any = labels.numel() > 0;
  const GradientParts counts =
      any ? gradient_parts(labels, g, SEGEXT_PART_COUNTS(depthwise_cross_entropy_backward)) : GradientParts{0, 0};
  const Tensor grad = dense(grad_loss, false);
  // Kernels read both numbers of a Normalizer at once.
  const Tensor pairs = aligned(dense(normalizers, false), 2 * static_cast<int64_t>(normalizers.element_size()));
  const Tensor grad_input =
      empty(input, needs_input ? sizes_of(input) : Ints{0}, input.scalar_type(), needs_input && channels_last);
  const Parts weights(needs_weight, input, sizes_of(weight), counts.weight);
  const Parts biases(needs_bias, input, {g.channels}, counts.bias);
  if (!any) {
    torch::stable::fill_(grad_input, 0);
  } else {
    const UpsamplingGradients gradients{needs_input ? grad_input.mutable_data_ptr() : nullptr, weights.data(),
                                        biases.data()};
    const DepthwiseCrossEntropyBackwardParams params{
        .scores = call.scores(),
        .criterion = call.criterion(),
        .normalizers = pairs.const_data_ptr(),
        .labels = call.pixels.const_data_ptr(),
        .grad_loss = grad.const_data_ptr(),
        .one_value = one_value,
        .gradients = gradients,
    };
    run(labels, SEGEXT_KERNEL(DepthwiseCrossEntropyBackwardParams, depthwise_cross_entropy_backward), params);
  }
  return {grad_input, weights.total(op), biases.total(op)};
}

SEGEXT_REGISTER(library) {
  library.impl("depthwise_conv_transpose2d_cross_entropy", TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy));
  library.impl("depthwise_conv_transpose2d_cross_entropy_backward",
               TORCH_BOX(&depthwise_conv_transpose2d_cross_entropy_backward));
}

}  // namespace
}  // namespace segext::ops
