// Every op of segext, as the dispatcher knows it. Kernels register themselves in ops/; autograd and fake kernels are
// registered in Python.
//
// All arguments are explicit. `codes` are packed switches (kernels/switches.h). `channels_last` is the memory format
// that an op works in: codes must be in it, other tensors are converted to it, and results are returned in it.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(segext, library) {
  library.def(
      "max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode, "
      "bool channels_last) -> (Tensor output, Tensor codes)");
  library.def(
      "relu_max_pool2d(Tensor input, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "bool ceil_mode, bool channels_last) -> (Tensor output, Tensor codes)");
  // The backward of both pools (relu_output is the output of the fused pool), and the backward of that backward, which
  // is its adjoint.
  library.def(
      "max_pool2d_backward(Tensor grad_output, Tensor codes, Tensor? relu_output, SymInt[2] input_size, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool channels_last) -> Tensor");
  library.def(
      "max_pool2d_backward_out(Tensor grad_output, Tensor codes, Tensor? relu_output, SymInt[2] input_size, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool channels_last, Tensor(a!) out) -> ()");
  library.def(
      "max_pool2d_double_backward(Tensor grad_grad_input, Tensor codes, Tensor? relu_output, SymInt[2] output_size, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, bool channels_last) -> Tensor");

  library.def(
      "max_unpool2d(Tensor input, Tensor codes, SymInt[2] output_size, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last) -> Tensor");
  library.def(
      "max_unpool2d_out(Tensor input, Tensor codes, SymInt[2] output_size, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last, Tensor(a!) out) -> ()");
  library.def(
      "max_unpool2d_backward(Tensor grad_output, Tensor codes, SymInt[2] input_size, int[2] kernel_size, "
      "int[2] stride, int[2] padding, int[2] dilation, bool channels_last) -> Tensor");
  // Unpooling by stock's int64 indices. Indices out of range place and gather nothing.
  library.def(
      "max_unpool2d_indices(Tensor input, Tensor indices, SymInt[2] output_size, bool channels_last) -> Tensor");
  library.def(
      "max_unpool2d_indices_backward(Tensor grad_output, Tensor indices, SymInt[2] input_size, bool channels_last) "
      "-> Tensor");

  // Conversions: codes to stock's indices (-1 where a code names no pixel); indices to codes, with the number of
  // indices that lie on no tap of their window; codes to the other memory format.
  library.def(
      "switches_to_indices(Tensor codes, SymInt[] size, SymInt[2] input_size, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last) -> Tensor");
  library.def(
      "switches_from_indices(Tensor indices, SymInt[2] input_size, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last) -> (Tensor codes, Tensor invalid)");
  library.def("switches_repack(Tensor codes, SymInt[] size, int[2] kernel_size, bool channels_last) -> Tensor");

  // For range checks of int64 values such as indices and classes: the minimum and maximum of zero and those values that
  // are not `ignored`, for each part of the values, as [parts, 2].
  library.def("extremes(Tensor values, SymInt ignored) -> Tensor");

  // Transposed convolutions whose channels do not mix: weight [C, M, kh, kw] makes M output channels from each input
  // channel. `origin` is the padding plus the offset of a crop, and `output_size` is the size of what is computed from
  // there on. `addend`, read from `addend_origin` on, is added to it.
  library.def(
      "depthwise_conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, Tensor? addend, SymInt[2] output_size, "
      "int[2] stride, SymInt[2] origin, int[2] dilation, SymInt[2] addend_origin, bool channels_last) -> Tensor");
  // Its gradients; those that are not needed are empty.
  library.def(
      "depthwise_conv_transpose2d_backward(Tensor grad_output, Tensor input, Tensor weight, int[2] stride, "
      "SymInt[2] origin, int[2] dilation, bool channels_last, bool needs_input, bool needs_weight, bool needs_bias) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  library.def(
      "depthwise_conv_transpose2d_argmax(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, "
      "int[2] stride, SymInt[2] origin, int[2] dilation, bool channels_last, bool return_scores) "
      "-> (Tensor labels, Tensor scores)");
  // The cross-entropy of such scores: the loss of each pixel or, with `reduce`, the sum of all, and the total weight of
  // the pixels that count. Both are float32, or float64 for float64. The backward op needs two more results for each
  // pixel: `normalizers`, two numbers of that type that turn recomputed scores into a softmax; and `labels`, uint8 for
  // up to 255 classes, otherwise int32, with all bits set (-1) where the pixel does not count. Both are empty unless
  // return_normalizers asks for them, which autograd does by itself. Then its gradients; those that are not needed are
  // empty.
  library.def(
      "depthwise_conv_transpose2d_cross_entropy(Tensor input, Tensor weight, Tensor? bias, Tensor target, "
      "Tensor? class_weight, int[2] stride, SymInt[2] origin, int[2] dilation, SymInt ignore_index, "
      "float label_smoothing, bool channels_last, bool reduce, bool return_normalizers) "
      "-> (Tensor loss, Tensor total_weight, Tensor normalizers, Tensor labels)");
  library.def(
      "depthwise_conv_transpose2d_cross_entropy_backward(Tensor grad_loss, Tensor input, Tensor weight, Tensor? bias, "
      "Tensor? class_weight, Tensor normalizers, Tensor labels, int[2] stride, SymInt[2] origin, int[2] dilation, "
      "float label_smoothing, bool channels_last, bool needs_input, bool needs_weight, bool needs_bias) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");

  // Transposed convolutions whose channels mix: weight [C, K, kh, kw]. `output_size` includes what output_padding adds.
  library.def(
      "dense_conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, int[2] stride, "
      "int[2] padding, int[2] dilation, bool channels_last) -> Tensor");

  // Unpooling by the switches of 2x2 windows, then a 3x3 convolution of stride 1 with weight [K, C, 3, 3] or,
  // transposed, [C, K, 3, 3]. The backward op returns the gradients that are wanted, and empty tensors for the others.
  // `packed_weight` is the result of unpool_conv2d_pack for the weight; without it, each call packs the weight itself.
  library.def("unpool_conv2d_pack(Tensor weight, bool transposed) -> Tensor");
  library.def(
      "unpool_conv2d(Tensor input, Tensor codes, Tensor weight, Tensor? packed_weight, Tensor? bias, "
      "SymInt[2] unpooled_size, int[2] padding, bool transposed, bool channels_last) -> Tensor");
  library.def(
      "unpool_conv2d_backward(Tensor grad_output, Tensor input, Tensor codes, Tensor weight, SymInt[2] unpooled_size, "
      "int[2] padding, bool transposed, bool channels_last, bool needs_input, bool needs_weight) "
      "-> (Tensor grad_input, Tensor grad_weight)");
}
