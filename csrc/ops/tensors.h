// Tensors at the stable ABI: sizes, memory formats, allocation, element types. Nothing here knows about pooling.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/element_type.h"

namespace segext::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

Ints sizes_of(const Tensor& tensor);
// The last two sizes; and all sizes, with the last two replaced by `size`.
Ints spatial_size(const Tensor& tensor);
Ints with_spatial_size(const Tensor& tensor, const Ints& size);

// "[2, 3, 4, 4]"
std::string text(const Ints& values);
// "cuda:0"
std::string text(const torch::stable::Device& device);

// The tensor itself if it is dense in NCHW or, with channels_last, in NHWC order; otherwise a dense copy.
Tensor dense(const Tensor& tensor, bool channels_last);
bool is_dense(const Tensor& tensor, bool channels_last);

// The tensor itself, which is dense in NCHW order, if its data is aligned to so many bytes; otherwise a copy.
Tensor aligned(const Tensor& tensor, int64_t bytes);

// An uninitialised dense tensor on `like`'s device. Large CPU tensors ask for huge pages: page faults on small pages
// would cost several times what a kernel takes to fill the memory.
Tensor empty(const Tensor& like, const Ints& sizes, ScalarType type, bool channels_last = false);

// Throws a RuntimeError that names `op` and the type, unless kernels support the type.
ElementType element_type(const char* op, const Tensor& tensor);
ElementType floating_element_type(const char* op, const Tensor& tensor);

}  // namespace segext::ops
