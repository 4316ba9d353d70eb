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
// The last two of them, and all with these replaced.
Ints spatial_size(const Tensor& tensor);
Ints with_spatial_size(const Tensor& tensor, const Ints& size);

// "[2, 3, 4, 4]"
std::string text(const Ints& values);
// "cuda:0"
std::string text(const torch::stable::Device& device);

// The tensor itself where it is dense in NCHW or, with channels_last, in NHWC order; else a copy that is.
Tensor dense(const Tensor& tensor, bool channels_last);
bool is_dense(const Tensor& tensor, bool channels_last);

// Uninitialised and dense, on `like`'s device. Large tensors on the CPU ask for huge pages: faulting their pages in one
// by one would cost several times what a kernel takes to fill them.
Tensor empty(const Tensor& like, const Ints& sizes, ScalarType type, bool channels_last = false);

// Throws a RuntimeError that names `op` and the type unless kernels take it.
ElementType element_type(const char* op, const Tensor& tensor);
ElementType floating_element_type(const char* op, const Tensor& tensor);

}  // namespace segext::ops
