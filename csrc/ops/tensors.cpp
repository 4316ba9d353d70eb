// Tensors at the stable ABI: see tensors.h.
#include "tensors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>

#include "checks.h"

namespace segext::ops {
namespace {

// Below this size the allocator reuses memory whose pages are already resident.
constexpr int64_t kHugePageBytes = int64_t{4} << 20;

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // only advice: a failure changes nothing
#endif
}

Ints dense_strides(const Ints& sizes, bool channels_last) {
  Ints strides(sizes.size());
  int64_t stride = 1;
  const auto place = [&](size_t dim) {
    strides[dim] = stride;
    SEGEXT_CHECK(!__builtin_mul_overflow(stride, std::max<int64_t>(sizes[dim], 1), &stride), "segext: a tensor of ",
                 text(sizes), " has more elements than 64 bits count");
  };
  if (channels_last && sizes.size() == 4) {
    for (size_t dim : {1, 3, 2, 0}) place(dim);
  } else {
    for (size_t dim = sizes.size(); dim-- > 0;) place(dim);
  }
  return strides;
}

// Names what frameworks look for in the message of an error to tell whether memory ran out, as torch does.
[[noreturn]] void fail_to_allocate(const Tensor& like, const Ints& sizes, ScalarType type) {
  std::string cause = torch_error();
  if (cause.empty())
    cause = like.is_cpu() ? "DefaultCPUAllocator: can't allocate memory" : "CUDA out of memory, most likely";
  fail("segext: cannot allocate ", text(sizes), " of ", torch::headeronly::toString(type), " on ", text(like.device()),
       ": ", cause);
}

}  // namespace

Ints sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Ints(sizes.begin(), sizes.end());
}

Ints spatial_size(const Tensor& tensor) { return {tensor.size(tensor.dim() - 2), tensor.size(tensor.dim() - 1)}; }

Ints with_spatial_size(const Tensor& tensor, const Ints& size) {
  Ints sizes = sizes_of(tensor);
  std::copy(size.begin(), size.end(), sizes.end() - 2);
  return sizes;
}

std::string text(const Ints& values) {
  std::string out = "[";
  for (size_t k = 0; k < values.size(); ++k) out += (k ? ", " : "") + std::to_string(values[k]);
  return out + "]";
}

std::string text(const torch::stable::Device& device) {
  if (device.is_cpu()) return "cpu";
  const std::string type = device.is_cuda() ? "cuda" : "device type " + std::to_string(static_cast<int>(device.type()));
  return type + ":" + std::to_string(static_cast<int>(device.index()));
}

bool is_dense(const Tensor& tensor, bool channels_last) {
  const Ints sizes = sizes_of(tensor);
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) return true;
  const auto strides = tensor.strides();
  const Ints expected = dense_strides(sizes, channels_last);
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] != 1 && strides[dim] != expected[dim]) return false;
  }
  return true;
}

Tensor dense(const Tensor& tensor, bool channels_last) {
  if (is_dense(tensor, channels_last)) return tensor;
  Tensor copy = empty(tensor, sizes_of(tensor), tensor.scalar_type(), channels_last);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor aligned(const Tensor& tensor, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes == 0) return tensor;
  Tensor copy = empty(tensor, sizes_of(tensor), tensor.scalar_type());
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor empty(const Tensor& like, const Ints& sizes, ScalarType type, bool channels_last) {
  const Ints strides = dense_strides(sizes, channels_last);
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  if (aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, device_type,
                               device_index, &handle) != TORCH_SUCCESS) {
    fail_to_allocate(like, sizes, type);
  }
  const Tensor result(handle);
  if (result.is_cpu()) {
    const int64_t bytes = result.numel() * static_cast<int64_t>(result.element_size());
    if (bytes >= kHugePageBytes) advise_huge_pages(result.mutable_data_ptr(), bytes);
  }
  return result;
}

ElementType floating_element_type(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return ElementType::kFloat32;
    case ScalarType::Double:
      return ElementType::kFloat64;
    case ScalarType::Half:
      return ElementType::kFloat16;
    case ScalarType::BFloat16:
      return ElementType::kBFloat16;
    default:
      fail("\"", op, "\" not implemented for '", torch::headeronly::toString(tensor.scalar_type()), "'");
  }
}

ElementType element_type(const char* op, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Char:
      return ElementType::kInt8;
    case ScalarType::Byte:
      return ElementType::kUInt8;
    case ScalarType::Short:
      return ElementType::kInt16;
    case ScalarType::Int:
      return ElementType::kInt32;
    case ScalarType::Long:
      return ElementType::kInt64;
    default:
      return floating_element_type(op, tensor);
  }
}

}  // namespace segext::ops
