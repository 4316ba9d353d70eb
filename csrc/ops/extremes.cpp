// The minimum and maximum of int64 values, for every device that has kernels.
#include "../kernels/extremes.h"

#include "checks.h"
#include "kernel.h"

namespace segext::ops {
namespace {

Tensor extremes(const Tensor& values, int64_t ignored) {
  SEGEXT_CHECK(values.scalar_type() == ScalarType::Long, "extremes: values should be int64, but are ",
               torch::headeronly::toString(values.scalar_type()));
  const Tensor all = dense(values, is_dense(values, true));
  Tensor parts = empty(all, {extremes_parts(all.numel()), 2}, ScalarType::Long);
  if (parts.numel() > 0) {
    const ExtremesParams params{
        .values = static_cast<const int64_t*>(all.const_data_ptr()),
        .count = all.numel(),
        .ignored = ignored,
        .parts = static_cast<int64_t*>(parts.mutable_data_ptr()),
    };
    run(all, SEGEXT_KERNEL(ExtremesParams, extremes), params);
  }
  return parts;
}

SEGEXT_REGISTER(library) { library.impl("extremes", TORCH_BOX(&extremes)); }

}  // namespace
}  // namespace segext::ops
