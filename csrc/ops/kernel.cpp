// Kernels on torch's threads and streams: see kernel.h.
#include "kernel.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>

#include "checks.h"

// Weak, so that the library also loads under a CPU-only torch, which lacks it. launch() checks for it before each use.
#pragma weak aoti_torch_get_current_cuda_stream

namespace segext::ops {
namespace {

// The number of elements of the larger map for which waking a thread pays off: torch's own grain size.
constexpr int64_t kGrainElements = 32768;

}  // namespace

void parallel(Work work, void (*body)(const void* task, int64_t begin, int64_t end), const void* task) {
  if (work.units * work.elements <= kGrainElements) {
    body(task, 0, work.units);
    return;
  }
  const int64_t grain = kGrainElements / work.elements;
  // Torch's C interface would turn an exception into an error without its type and text.
  std::exception_ptr first;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(0, work.units, grain > 0 ? grain : 1, [&](int64_t begin, int64_t end) {
    try {
      body(task, begin, end);
    } catch (...) {
      if (!failed.test_and_set()) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

void launch([[maybe_unused]] const Tensor& tensor, [[maybe_unused]] CudaStatus (*body)(const void* task, CudaStream),
            [[maybe_unused]] const void* task) {
#if defined(SEGEXT_WITH_CUDA)
  SEGEXT_CHECK(&aoti_torch_get_current_cuda_stream != nullptr,
               "segext was built with CUDA, but the torch in use has no CUDA library: install a CUDA build of torch "
               "or, in C++, load libtorch_cuda before _ops.so");
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  SEGEXT_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == TORCH_SUCCESS,
               "segext: CUDA error: no current stream. ", torch_error());
  const CudaStatus status = body(task, static_cast<CudaStream>(stream));
  SEGEXT_CHECK(status == 0, "segext: CUDA error: ", cuda_status_text(status));
#else
  SEGEXT_CHECK(false, "segext was built without CUDA; rebuild it with SEGEXT_CUDA=1 where nvcc is installed");
#endif
}

}  // namespace segext::ops
