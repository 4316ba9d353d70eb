// max_unpool2d and its backward, by switches and by stock's int64 indices, for every device that has kernels.
#include "../kernels/indices.h"
#include "switch_moves.h"

namespace segext::ops {
namespace {

constexpr Move kUnpool{"max_unpool2d", "input", "output_size", Overlap::kKeepLast};
constexpr Move kUnpoolOut{"max_unpool2d_out", "input", "output_size", Overlap::kKeepLast};
constexpr Move kUnpoolBackward{"max_unpool2d_backward", "grad_output", "input_size", Overlap::kKeepLast};

Tensor max_unpool2d(const Tensor& input, const Tensor& codes, const Ints output_size, const Ints kernel_size,
                    const Ints stride, const Ints padding, const Ints dilation, bool channels_last) {
  const Window window = make_window(kUnpool.op, kernel_size, stride, padding, dilation);
  return scattered(kUnpool, input, codes, std::nullopt, output_size, window, channels_last);
}

void max_unpool2d_out(const Tensor& input, const Tensor& codes, const Ints output_size, const Ints kernel_size,
                      const Ints stride, const Ints padding, const Ints dilation, bool channels_last, Tensor out) {
  const Window window = make_window(kUnpoolOut.op, kernel_size, stride, padding, dilation);
  scatter_to(out, kUnpoolOut, input, codes, std::nullopt, output_size, window, channels_last);
}

Tensor max_unpool2d_backward(const Tensor& grad_output, const Tensor& codes, const Ints input_size,
                             const Ints kernel_size, const Ints stride, const Ints padding, const Ints dilation,
                             bool channels_last) {
  const Window window = make_window(kUnpoolBackward.op, kernel_size, stride, padding, dilation);
  return gathered(kUnpoolBackward, grad_output, codes, std::nullopt, input_size, window, channels_last);
}

int64_t pixels_of(const Ints& spatial_size) { return spatial_size[0] * spatial_size[1]; }

// `values` are those of either map.
IndexedMaps indexed_maps(const char* op, const Tensor& values, const Tensor& indices, const Ints& full_size,
                         bool channels_last) {
  const bool batched = indices.dim() == 4;
  const int64_t pooled_pixels = pixels_of(spatial_size(indices));
  SEGEXT_CHECK(values.is_cpu() || pooled_pixels < kMaxNumbered, op, ": an image of ", pooled_pixels,
               " pooled pixels is too large for indices");
  return {
      .indices = static_cast<const int64_t*>(indices.const_data_ptr()),
      .samples = batched ? indices.size(0) : 1,
      .channels = indices.size(batched ? 1 : 0),
      .pixels = pixels_of(full_size),
      .pooled_pixels = pooled_pixels,
      .channels_last = channels_last,
      .type = floating_element_type(op, values),
  };
}

void check_indices(const char* op, const Tensor& indices, const Tensor& tensor) {
  SEGEXT_CHECK(indices.scalar_type() == ScalarType::Long, op, ": elements in indices should be type int64 but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  check_device(op, "indices", indices, "the values", tensor);
}

// Scratch for the last element that names each pixel; only CUDA needs it.
Tensor winners_for(const Tensor& map, const Ints& sizes) {
  return empty(map, map.is_cpu() ? Ints{0} : sizes, ScalarType::Int);
}

Tensor max_unpool2d_indices(const Tensor& input, const Tensor& indices, const Ints output_size, bool channels_last) {
  constexpr const char* op = "max_unpool2d_indices";
  check_map(op, "input", input);
  check_spatial_size(op, "output_size", output_size);
  check_indices(op, indices, input);
  SEGEXT_CHECK(sizes_of(input) == sizes_of(indices), op,
               ": Expected shape of indices to be same as that of the input tensor (", text(sizes_of(input)),
               ") but got indices tensor with shape: ", text(sizes_of(indices)));
  const Tensor values = dense(input, channels_last);
  const Tensor places = dense(indices, channels_last);
  const Ints sizes = with_spatial_size(input, output_size);
  Tensor output = empty(input, sizes, input.scalar_type(), channels_last);
  const IndexedMaps maps = indexed_maps(op, values, places, output_size, channels_last);
  if (output.numel() > 0) {
    const Tensor winners = winners_for(output, sizes);
    const IndexUnpoolParams params{maps, values.const_data_ptr(), output.mutable_data_ptr(),
                                   static_cast<uint32_t*>(winners.mutable_data_ptr())};
    run(values, SEGEXT_KERNEL(IndexUnpoolParams, index_unpool), params);
  }
  return output;
}

Tensor max_unpool2d_indices_backward(const Tensor& grad_output, const Tensor& indices, const Ints input_size,
                                     bool channels_last) {
  constexpr const char* op = "max_unpool2d_indices_backward";
  check_map(op, "indices", indices);
  SEGEXT_CHECK(input_size == spatial_size(indices), op, ": input_size should be ", text(spatial_size(indices)),
               ", that of indices, but got ", text(input_size));
  check_indices(op, indices, grad_output);
  const Tensor places = dense(indices, channels_last);
  const Tensor map = dense(grad_output, channels_last);
  SEGEXT_CHECK(sizes_of(map) == with_spatial_size(places, spatial_size(map)), op, ": grad_output of shape ",
               text(sizes_of(map)), " does not belong to indices of shape ", text(sizes_of(places)));
  Tensor grad_input = empty(map, sizes_of(places), map.scalar_type(), channels_last);
  const IndexedMaps maps = indexed_maps(op, map, places, spatial_size(map), channels_last);
  if (grad_input.numel() > 0) {
    const Tensor winners = winners_for(map, sizes_of(map));
    const IndexUnpoolBackwardParams params{maps, map.const_data_ptr(), grad_input.mutable_data_ptr(),
                                           static_cast<uint32_t*>(winners.mutable_data_ptr())};
    run(map, SEGEXT_KERNEL(IndexUnpoolBackwardParams, index_unpool_backward), params);
  }
  return grad_input;
}

SEGEXT_REGISTER(library) {
  library.impl("max_unpool2d", TORCH_BOX(&max_unpool2d));
  library.impl("max_unpool2d_out", TORCH_BOX(&max_unpool2d_out));
  library.impl("max_unpool2d_backward", TORCH_BOX(&max_unpool2d_backward));
  library.impl("max_unpool2d_indices", TORCH_BOX(&max_unpool2d_indices));
  library.impl("max_unpool2d_indices_backward", TORCH_BOX(&max_unpool2d_indices_backward));
}

}  // namespace
}  // namespace segext::ops
