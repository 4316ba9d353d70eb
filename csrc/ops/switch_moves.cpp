// Moves values by switches: see switch_moves.h.
#include "switch_moves.h"

#include "../kernels/gather.h"

namespace segext::ops {
namespace {

// Checks what is moved, and the size of the result, which is returned.
Ints checked_sizes(const Move& move, const Tensor& source, const Tensor& codes, const Ints& size) {
  check_map(move.op, move.source, source);
  check_spatial_size(move.op, move.target_size, size);
  check_device(move.op, "codes", codes, move.source, source);
  return with_spatial_size(source, size);
}

// The dense form of a saved ReLU output, checked against the pooled map it masks.
std::optional<Tensor> dense_relu_output(const char* op, const std::optional<Tensor>& relu_output, const Tensor& pooled,
                                        bool channels_last) {
  if (!relu_output.has_value()) return std::nullopt;
  check_same(op, "relu_output", *relu_output, "the pooled gradient", pooled);
  return dense(*relu_output, channels_last);
}

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

void scatter(const Tensor& out, bool bypass_caches, const Move& move, const Tensor& source, const Tensor& codes,
             const std::optional<Tensor>& relu_output, const Ints& size, const Window& window, bool channels_last) {
  const Tensor values = dense(source, channels_last);
  const PoolGeometry geometry =
      make_geometry(move.op, window, sizes_of(values), size, spatial_size(values), channels_last);
  const Tensor rows = checked_codes(move.op, codes, values.dim() == 4, geometry);
  const ElementType type = floating_element_type(move.op, values);
  const std::optional<Tensor> mask = dense_relu_output(move.op, relu_output, values, channels_last);
  if (out.numel() == 0) return;
  const ScatterParams params{
      .values = values.const_data_ptr(),
      .relu_output = data_or_null(mask),
      .codes = code_data(rows),
      .map = out.mutable_data_ptr(),
      .geometry = as_row(geometry),
      .type = type,
      .overlap = move.overlap,
      .bypass_caches = bypass_caches,
  };
  run(values, SEGEXT_KERNEL(ScatterParams, scatter), params);
}

}  // namespace

Tensor scattered(const Move& move, const Tensor& source, const Tensor& codes, const std::optional<Tensor>& relu_output,
                 const Ints& size, const Window& window, bool channels_last) {
  const Ints sizes = checked_sizes(move, source, codes, size);
  Tensor map = empty(source, sizes, source.scalar_type(), channels_last);
  scatter(map, false, move, source, codes, relu_output, size, window, channels_last);
  return map;
}

void scatter_to(const Tensor& out, const Move& move, const Tensor& source, const Tensor& codes,
                const std::optional<Tensor>& relu_output, const Ints& size, const Window& window, bool channels_last) {
  check_out(move.op, out, source, checked_sizes(move, source, codes, size), channels_last);
  scatter(out, bypasses_caches(out), move, source, codes, relu_output, size, window, channels_last);
}

Tensor gathered(const Move& move, const Tensor& source, const Tensor& codes, const std::optional<Tensor>& relu_output,
                const Ints& size, const Window& window, bool channels_last) {
  const Ints sizes = checked_sizes(move, source, codes, size);
  const Tensor map = dense(source, channels_last);
  const PoolGeometry geometry = make_geometry(move.op, window, sizes_of(map), spatial_size(map), size, channels_last);
  const Tensor rows = checked_codes(move.op, codes, map.dim() == 4, geometry);
  const ElementType type = floating_element_type(move.op, map);
  Tensor values = empty(map, sizes, map.scalar_type(), channels_last);
  const std::optional<Tensor> mask = dense_relu_output(move.op, relu_output, values, channels_last);
  if (values.numel() == 0) return values;
  const GatherParams params{
      .map = map.const_data_ptr(),
      .relu_output = data_or_null(mask),
      .codes = code_data(rows),
      .values = values.mutable_data_ptr(),
      .geometry = as_row(geometry),
      .type = type,
      .overlap = move.overlap,
  };
  run(map, SEGEXT_KERNEL(GatherParams, gather), params);
  return values;
}

}  // namespace segext::ops
