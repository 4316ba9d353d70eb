// Runs an op's kernels on a tensor's device, and registers the op.
#pragma once

#include <torch/csrc/stable/library.h>

#include "../kernels/work.h"
#include "tensors.h"

namespace segext::ops {

// A kernel's entry points. run() calls the CPU one on torch's threads, or the CUDA one on the current stream, by the
// tensor's device.
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

// A kernel of the contract headers, with all entry points that this build has.
#if defined(SEGEXT_WITH_CUDA)
#define SEGEXT_KERNEL(Params, stem) \
  segext::ops::Kernel<Params> { stem##_work, stem##_cpu, stem##_cuda }
#define SEGEXT_REGISTER_CUDA(function) \
  STABLE_TORCH_LIBRARY_IMPL(segext, CUDA, library) { function(library); }
#else
#define SEGEXT_KERNEL(Params, stem) SEGEXT_CPU_KERNEL(Params, stem)
#define SEGEXT_REGISTER_CUDA(function)
#endif

// Opens the function that registers a file's ops, for every device that this build has kernels for.
#define SEGEXT_REGISTER(library)                                                     \
  void register_ops(torch::stable::detail::StableLibrary& library);                  \
  STABLE_TORCH_LIBRARY_IMPL(segext, CPU, cpu_library) { register_ops(cpu_library); } \
  SEGEXT_REGISTER_CUDA(register_ops)                                                 \
  void register_ops(torch::stable::detail::StableLibrary& library)
