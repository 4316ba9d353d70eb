// Conversions of switches: to and from stock's int64 indices, and between memory formats.
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "../kernels/indices.h"
#include "../kernels/repack_codes.h"
#include "pooling.h"

namespace segext::ops {
namespace {

void check_pooled_size(const char* op, const Ints& size) {
  bool valid = size.size() == 3 || size.size() == 4;
  for (int64_t s : size) valid = valid && s >= 0;
  SEGEXT_CHECK(valid, op, ": size should be that of a 3D or 4D pooled map, but got ", text(size));
}

Ints last_two(const Ints& size) { return Ints(size.end() - 2, size.end()); }

Tensor switches_to_indices(const Tensor& codes, const Ints size, const Ints input_size, const Ints kernel_size,
                           const Ints stride, const Ints padding, const Ints dilation, bool channels_last) {
  constexpr const char* op = "switches_to_indices";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_spatial_size(op, "input_size", input_size);
  check_pooled_size(op, size);
  const PoolGeometry geometry = make_geometry(op, window, size, input_size, last_two(size), channels_last);
  const Tensor rows = checked_codes(op, codes, size.size() == 4, geometry);
  Tensor indices = empty(codes, size, ScalarType::Long, channels_last);
  if (indices.numel() > 0) {
    const IndicesFromCodesParams params{code_data(rows), static_cast<int64_t*>(indices.mutable_data_ptr()), geometry};
    run(indices, SEGEXT_KERNEL(IndicesFromCodesParams, indices_from_codes), params);
  }
  return indices;
}

std::tuple<Tensor, Tensor> switches_from_indices(const Tensor& indices, const Ints input_size, const Ints kernel_size,
                                                 const Ints stride, const Ints padding, const Ints dilation,
                                                 bool channels_last) {
  constexpr const char* op = "switches_from_indices";
  const Window window = make_window(op, kernel_size, stride, padding, dilation);
  check_map(op, "indices", indices);
  check_spatial_size(op, "input_size", input_size);
  SEGEXT_CHECK(indices.scalar_type() == ScalarType::Long, op, ": elements in indices should be type int64 but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  const Tensor places = dense(indices, channels_last);
  const PoolGeometry geometry =
      make_geometry(op, window, sizes_of(places), input_size, spatial_size(places), channels_last);
  Tensor codes = empty_codes(places, geometry);
  Tensor invalid = empty(places, {1}, ScalarType::Long);
  torch::stable::zero_(invalid);
  if (places.numel() > 0) {
    const CodesFromIndicesParams params{static_cast<const int64_t*>(places.const_data_ptr()),
                                        static_cast<uint8_t*>(codes.mutable_data_ptr()),
                                        static_cast<int64_t*>(invalid.mutable_data_ptr()), geometry};
    run(places, SEGEXT_KERNEL(CodesFromIndicesParams, codes_from_indices), params);
  }
  return {codes, invalid};
}

Tensor switches_repack(const Tensor& codes, const Ints size, const Ints kernel_size, bool channels_last) {
  constexpr const char* op = "switches_repack";
  const Window window = make_window(op, kernel_size, {}, {0}, {1});
  check_pooled_size(op, size);
  const Ints spatial = last_two(size);
  const PoolGeometry geometry = make_geometry(op, window, size, spatial, spatial, channels_last);
  const Tensor rows = checked_codes(op, codes, size.size() == 4, geometry);
  Tensor repacked = empty(rows, sizes_of(rows), ScalarType::Byte);
  if (repacked.numel() > 0) {
    const RepackCodesParams params{code_data(rows), static_cast<uint8_t*>(repacked.mutable_data_ptr()), geometry};
    run(rows, SEGEXT_KERNEL(RepackCodesParams, repack_codes), params);
  }
  return repacked;
}

SEGEXT_REGISTER(library) {
  library.impl("switches_to_indices", TORCH_BOX(&switches_to_indices));
  library.impl("switches_from_indices", TORCH_BOX(&switches_from_indices));
  library.impl("switches_repack", TORCH_BOX(&switches_repack));
}

}  // namespace
}  // namespace segext::ops
