// Checks that every op shares: see checks.h.
#include "checks.h"

// Weak, so that the library also loads under the versions of torch that lack it.
extern "C" __attribute__((weak, visibility("default"))) const char* torch_exception_get_what_without_backtrace();

namespace segext::ops {
namespace {

void check_dtype(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  SEGEXT_CHECK(tensor.scalar_type() == other.scalar_type(), op, ": ", name, " and ", other_name,
               " should have the same dtype, but got ", torch::headeronly::toString(tensor.scalar_type()), " and ",
               torch::headeronly::toString(other.scalar_type()));
}

}  // namespace

std::string torch_error() {
  return &torch_exception_get_what_without_backtrace == nullptr ? "" : torch_exception_get_what_without_backtrace();
}

void check_device(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  SEGEXT_CHECK(tensor.device() == other.device(), op, ": ", name, " and ", other_name,
               " should be on the same device, but got ", text(tensor.device()), " and ", text(other.device()));
}

void check_like(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  check_device(op, name, tensor, other_name, other);
  check_dtype(op, name, tensor, other_name, other);
}

void check_same(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  check_device(op, name, tensor, other_name, other);
  SEGEXT_CHECK(sizes_of(tensor) == sizes_of(other), op, ": ", name, " and ", other_name,
               " should have the same shape, but got ", text(sizes_of(tensor)), " and ", text(sizes_of(other)));
  check_dtype(op, name, tensor, other_name, other);
}

}  // namespace segext::ops
