// What the glue of every pooling op shares: arguments checked into a geometry, and kernels run on a tensor's device.
//
// An op works in the memory format its `channels_last` argument names: codes lie in that order, tensors in the other
// are converted first, results come in it. All errors are RuntimeErrors, as in stock, and show the offending value.
#pragma once

#include <torch/csrc/stable/library.h>

#include "../kernels/switches.h"
#include "../kernels/work.h"
#include "tensors.h"

namespace segext::ops {

Window make_window(const char* op, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                   const Ints& dilation);

// A [N, C, H, W] or [C, H, W] tensor with no empty dimension but N.
void check_map(const char* op, const char* name, const Tensor& tensor);

// Two sizes, none negative.
void check_spatial_size(const char* op, const char* name, const Ints& size);

void check_device(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Same dtype and device.
void check_like(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// Same shape, dtype and device.
void check_same(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other);

// A caller's output: of these sizes, like `input` in dtype and device, dense in the op's memory format.
void check_out(const char* op, const Tensor& out, const Tensor& input, const Ints& sizes, bool channels_last);

// True for a caller's output on the CPU that is so large that writing it around the caches pays.
bool streams_into(const Tensor& out);

// `tensor`'s sizes with the last two replaced: the other map of a pool.
Ints with_spatial_size(const Tensor& tensor, const Ints& size);

// The last two of them.
Ints spatial_size(const Tensor& tensor);

// Geometry of a pool between the map and the pooled map of these spatial sizes; `sizes`, of either map, gives samples
// and channels.
PoolGeometry make_geometry(const Window& window, const Ints& sizes, const Ints& size, const Ints& pooled_size,
                           bool channels_last);

// Spatial size of the pooled map by stock's rule.
Ints pooled_size(const char* op, const Window& window, const Tensor& input, bool ceil_mode);

// Codes of shape [N, sample_bytes] or, for an unbatched map, [sample_bytes].
Tensor empty_codes(const Tensor& map, const PoolGeometry& geometry);
Tensor checked_codes(const char* op, const Tensor& codes, bool batched, const PoolGeometry& geometry);

const uint8_t* code_data(const Tensor& codes);

// Runs the kernel on `tensor`'s device: its CPU form on torch's threads, its CUDA form on the current stream.
template <class Params>
struct Kernel {
  Work (*work)(const Params&);
  void (*cpu)(const Params&, int64_t begin, int64_t end);
  CudaStatus (*cuda)(const Params&, CudaStream);
};

void parallel(Work work, void (*body)(const void* task, int64_t begin, int64_t end), const void* task);
void launch(const Tensor& tensor, CudaStatus (*body)(const void* task, CudaStream), const void* task);

template <class Params>
void run(const Tensor& tensor, const Kernel<Params>& kernel, const Params& params) {
  struct Task {
    const Kernel<Params>& kernel;
    const Params& params;
  };
  const Task task{kernel, params};
  if (tensor.is_cpu()) {
    parallel(
        kernel.work(params),
        [](const void* t, int64_t begin, int64_t end) {
          static_cast<const Task*>(t)->kernel.cpu(static_cast<const Task*>(t)->params, begin, end);
        },
        &task);
  } else {
    launch(
        tensor,
        [](const void* t, CudaStream stream) {
          return static_cast<const Task*>(t)->kernel.cuda(static_cast<const Task*>(t)->params, stream);
        },
        &task);
  }
}

}  // namespace segext::ops

#define SEGEXT_CPU_KERNEL(Params, stem) \
  segext::ops::Kernel<Params> { stem##_work, stem##_cpu, nullptr }

// A kernel of the contract headers with all its forms, as far as this build has them.
#if defined(SEGEXT_WITH_CUDA)
#define SEGEXT_KERNEL(Params, stem) \
  segext::ops::Kernel<Params> { stem##_work, stem##_cpu, stem##_cuda }
#define SEGEXT_REGISTER(function)                                        \
  STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) { function(library); } \
  STABLE_TORCH_LIBRARY_IMPL(segext, CUDA, library) { function(library); }
#else
#define SEGEXT_KERNEL(Params, stem) SEGEXT_CPU_KERNEL(Params, stem)
#define SEGEXT_REGISTER(function) \
  STABLE_TORCH_LIBRARY_IMPL(segext, CPU, library) { function(library); }
#endif
