// max_unpool2d and its backward, by switches and by stock's int64 indices, for every device that has kernels.
#include "../kernels/gather.h"
#include "../kernels/indices.h"
#include "../kernels/scatter.h"
#include "pooling.h"

namespace segext::ops {
namespace {

void unpool_into(const char* op, const Tensor& out, bool bypass_caches, const Tensor& input, const Tensor& codes,
                 const Ints& output_size, const Window& window, bool channels_last) {
  check_device(op, "codes", codes, "input", input);
  const Tensor values = dense(input, channels_last);
  const PoolGeometry geometry =
      make_geometry(op, window, sizes_of(values), output_size, spatial_size(values), channels_last);
  const Tensor rows = checked_codes(op, codes, values.dim() == 4, geometry);
  const ElementType type = floating_element_type(op, values);
  if (out.numel() == 0) return;
  const ScatterParams params{
      .values = values.const_data_ptr(),
      .relu_output = nullptr,
      .codes = code_data(rows),
      .map = out.mutable_data_ptr(),
      .geometry = as_row(geometry),
      .type = type,
      .overlap = Overlap::kKeepLast,
      .bypass_caches = bypass_caches,
  };
  run(values, SEGEXT_KERNEL(ScatterParams, scatter), params);
}

Tensor max_unpool2d(const Tensor& input, const Tensor& codes, const Ints output_size, const Ints kernel_size,
                    const Ints stride, const Ints padding, const Ints dilation, bool channels_last) {
  constexpr const char* op = "max_unpool2d";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "input", input);
  check_spatial_size(op, "output_size", output_size);
  Tensor output = empty(input, with_spatial_size(input, output_size), input.scalar_type(), channels_last);
  unpool_into(op, output, false, input, codes, output_size, window, channels_last);
  return output;
}

void max_unpool2d_out(const Tensor& input, const Tensor& codes, const Ints output_size, const Ints kernel_size,
                      const Ints stride, const Ints padding, const Ints dilation, bool channels_last, Tensor out) {
  constexpr const char* op = "max_unpool2d_out";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "input", input);
  check_spatial_size(op, "output_size", output_size);
  check_out(op, out, input, with_spatial_size(input, output_size), channels_last);
  unpool_into(op, out, bypasses_caches(out), input, codes, output_size, window, channels_last);
}

Tensor max_unpool2d_backward(const Tensor& grad_output, const Tensor& codes, const Ints input_size,
                             const Ints kernel_size, const Ints stride, const Ints padding, const Ints dilation,
                             bool channels_last) {
  constexpr const char* op = "max_unpool2d_backward";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "grad_output", grad_output);
  check_spatial_size(op, "input_size", input_size);
  check_device(op, "codes", codes, "grad_output", grad_output);
  const Tensor map = dense(grad_output, channels_last);
  const PoolGeometry geometry = make_geometry(op, window, sizes_of(map), spatial_size(map), input_size, channels_last);
  const Tensor rows = checked_codes(op, codes, map.dim() == 4, geometry);
  const ElementType type = floating_element_type(op, map);
  Tensor grad_input = empty(map, with_spatial_size(map, input_size), map.scalar_type(), channels_last);
  if (grad_input.numel() > 0) {
    const GatherParams params{
        .map = map.const_data_ptr(),
        .relu_output = nullptr,
        .codes = code_data(rows),
        .values = grad_input.mutable_data_ptr(),
        .geometry = as_row(geometry),
        .type = type,
        .overlap = Overlap::kKeepLast,
    };
    run(map, SEGEXT_KERNEL(GatherParams, gather), params);
  }
  return grad_input;
}

// Shared by both directions of unpooling by indices; the maps' data pointers are filled in by the caller.
IndexUnpoolParams index_params(const char* op, const Tensor& tensor, const Tensor& indices, int64_t pixels,
                               bool channels_last) {
  const bool batched = indices.dim() == 4;
  IndexUnpoolParams params{};
  params.indices = static_cast<const int64_t*>(indices.const_data_ptr());
  params.samples = batched ? indices.size(0) : 1;
  params.channels = indices.size(batched ? 1 : 0);
  params.pixels = pixels;
  params.pooled_pixels = indices.size(indices.dim() - 2) * indices.size(indices.dim() - 1);
  SEGEXT_CHECK(tensor.is_cpu() || params.pooled_pixels < kMaxNumbered, op, ": an image of ", params.pooled_pixels,
               " pooled pixels is too large for indices");
  params.channels_last = channels_last;
  params.type = floating_element_type(op, tensor);
  return params;
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
  IndexUnpoolParams params = index_params(op, values, places, output_size[0] * output_size[1], channels_last);
  if (output.numel() > 0) {
    const Tensor winners = winners_for(output, sizes);
    params.values = values.const_data_ptr();
    params.map = output.mutable_data_ptr();
    params.winners = static_cast<uint32_t*>(winners.mutable_data_ptr());
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
  IndexUnpoolParams params =
      index_params(op, map, places, map.size(map.dim() - 2) * map.size(map.dim() - 1), channels_last);
  if (grad_input.numel() > 0) {
    const Tensor winners = winners_for(map, sizes_of(map));
    params.grad_map = map.const_data_ptr();
    params.grad_values = grad_input.mutable_data_ptr();
    params.winners = static_cast<uint32_t*>(winners.mutable_data_ptr());
    run(map, SEGEXT_KERNEL(IndexUnpoolParams, index_unpool_backward), params);
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
