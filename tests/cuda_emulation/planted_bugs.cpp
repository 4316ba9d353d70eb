// Self-test of the emulation. Kernels with one planted bug each must stop the program; the same kernels without a bug
// must not. The argument names the bug.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "cuda_emulation.h"

namespace {

constexpr int kThreads = 64;

enum class Bug {
  kNone,
  kStaticSharedOverrun,
  kDynamicSharedOverrun,
  kGlobalOverrun,
  kMisalignedVector,
  kDivergentBarrier,
  kExitBeforeBarrier,
  kLaneMissing,
  kShuffleOutsideMask,
  kMissingBarrier,
  kShuffleAsFence,
  kVoteAsFence,
  kMissingWait,
  kMisalignedCopy,
  kCopyElsewhere,
  kMatrixElsewhere,
  kTooMuchSharedMemory,
};

// Sums a block's numbers by way of both static and dynamic shared memory.
template <Bug kBug>
__global__ void block_sum(const float* numbers, float* sum) {
  __shared__ float partial[kThreads];
  float* staged = static_cast<float*>(cuda_emulation::dynamic_shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  staged[thread + (kBug == Bug::kDynamicSharedOverrun ? 1 : 0)] = numbers[thread];
  __syncthreads();
  if (kBug == Bug::kExitBeforeBarrier && thread == 5) return;
  const int mirrored = kThreads - 1 - thread;
  partial[mirrored + (kBug == Bug::kStaticSharedOverrun ? 1 : 0)] = staged[mirrored];
  if (kBug != Bug::kMissingBarrier) __syncthreads();
  if (kBug == Bug::kDivergentBarrier && thread < kThreads / 2) __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (thread < width) partial[thread] += partial[thread + width];
    __syncthreads();
  }
  if (thread == 0) *sum = partial[0];
}

// Copies numbers as vectors, and sums them with the shuffles of a warp; half of the numbers are read mirrored, by way
// of shared memory.
template <Bug kBug>
__global__ void warp_sum(const float* numbers, float* copy, float* sum) {
  const int thread = static_cast<int>(threadIdx.x);
  const int quarter = kThreads / 4;
  const float* source = numbers + (kBug == Bug::kMisalignedVector ? 1 : 0);
  const int last = kBug == Bug::kGlobalOverrun ? quarter + 1 : quarter - (kBug == Bug::kMisalignedVector ? 1 : 0);
  if (thread < last) reinterpret_cast<float4*>(copy)[thread] = reinterpret_cast<const float4*>(source)[thread];
  if (thread >= 32) return;
  if (kBug == Bug::kLaneMissing && thread == 3) return;
  auto* staged = static_cast<float*>(cuda_emulation::dynamic_shared_memory());
  staged[thread] = numbers[thread + 32];
  if (kBug == Bug::kShuffleAsFence) {
    __shfl_sync(0xffffffffu, 0, 0);
  } else if (kBug == Bug::kVoteAsFence) {
    __any_sync(0xffffffffu, 0);
  } else {
    __syncwarp();
  }
  float total = numbers[thread] + staged[31 - thread];
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    if (kBug == Bug::kShuffleOutsideMask && lanes == 16 && thread < 16) {
      total += __shfl_xor_sync(0x0000ffffu, total, lanes);
    } else {
      total += __shfl_xor_sync(0xffffffffu, total, lanes);
    }
  }
  if (__all_sync(0xffffffffu, 1) && thread == 0) *sum = total;
}

// Copies numbers through shared memory: in by asynchronous copies, and out as the rows of matrices.
template <Bug kBug>
__global__ void copy_matrices(const float* numbers, float* copy) {
  constexpr int kRows = kThreads * sizeof(float) / sizeof(uint4);
  auto* rows = static_cast<uint4*>(cuda_emulation::dynamic_shared_memory());
  const auto* source = reinterpret_cast<const uint4*>(numbers + (kBug == Bug::kMisalignedCopy ? 1 : 0));
  auto* target = kBug == Bug::kCopyElsewhere ? reinterpret_cast<uint4*>(copy) : rows;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kRows) ptx::copy_async(target + thread, source + thread);
  if (kBug != Bug::kMissingWait) ptx::wait_for_copies();
  __syncthreads();
  uint32_t matrices[4];
  ptx::ldmatrix(matrices, (kBug == Bug::kMatrixElsewhere ? source : rows) + thread % kRows);
  for (int k = 0; k < 2; ++k) copy[thread % 32 + 32 * k] = __uint_as_float(matrices[k]);
}

template <typename Kernel, typename... Arguments>
void launch(const cudaLaunchConfig_t& config, Kernel kernel, Arguments... arguments) {
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "a launch is refused with error %d\n", status);
  std::exit(1);
}

template <Bug kBug>
bool runs_right(const float* numbers, float* copy) {
  float block_result = 0, warp_result = 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kThreads * sizeof(float);
  launch(config, block_sum<kBug>, numbers, &block_result);
  alignas(sizeof(uint4)) float copied[kThreads] = {};
  config.blockDim = dim3(kThreads / 2);
  launch(config, copy_matrices<kBug>, numbers, &copied[0]);
  config.blockDim = dim3(kThreads);
  // The most that a block may have; the kernel needs little of it.
  config.dynamicSmemBytes = 48 * 1024 + (kBug == Bug::kTooMuchSharedMemory ? 1 : 0);
  launch(config, warp_sum<kBug>, numbers, copy, &warp_result);
  constexpr float kSum = kThreads * (kThreads - 1) / 2;
  const bool is_copied = std::memcmp(copied, numbers, sizeof(copied)) == 0;
  return block_result == kSum && warp_result == kSum && is_copied;
}

struct NamedBug {
  const char* name;
  bool (*runs_right)(const float* numbers, float* copy);
};

constexpr NamedBug kBugs[] = {
    {"none", runs_right<Bug::kNone>},
    {"static-shared-overrun", runs_right<Bug::kStaticSharedOverrun>},
    {"dynamic-shared-overrun", runs_right<Bug::kDynamicSharedOverrun>},
    {"global-overrun", runs_right<Bug::kGlobalOverrun>},
    {"misaligned-vector", runs_right<Bug::kMisalignedVector>},
    {"divergent-barrier", runs_right<Bug::kDivergentBarrier>},
    {"exit-before-barrier", runs_right<Bug::kExitBeforeBarrier>},
    {"lane-missing", runs_right<Bug::kLaneMissing>},
    {"shuffle-outside-mask", runs_right<Bug::kShuffleOutsideMask>},
    {"missing-barrier", runs_right<Bug::kMissingBarrier>},
    {"shuffle-as-fence", runs_right<Bug::kShuffleAsFence>},
    {"vote-as-fence", runs_right<Bug::kVoteAsFence>},
    {"missing-wait", runs_right<Bug::kMissingWait>},
    {"misaligned-copy", runs_right<Bug::kMisalignedCopy>},
    {"copy-elsewhere", runs_right<Bug::kCopyElsewhere>},
    {"matrix-elsewhere", runs_right<Bug::kMatrixElsewhere>},
    {"too-much-shared-memory", runs_right<Bug::kTooMuchSharedMemory>},
};

}  // namespace

int main(int argc, char** argv) {
  const char* name = argc > 1 ? argv[1] : "none";
  std::unique_ptr<float, decltype(&std::free)> numbers(
      static_cast<float*>(std::aligned_alloc(16, kThreads * sizeof(float))), &std::free);
  std::unique_ptr<float, decltype(&std::free)> copy(
      static_cast<float*>(std::aligned_alloc(16, kThreads * sizeof(float))), &std::free);
  for (int k = 0; k < kThreads; ++k) numbers.get()[k] = static_cast<float>(k);
  for (const NamedBug& named : kBugs) {
    if (std::strcmp(named.name, name) != 0) continue;
    for (const auto order : {cuda_emulation::ThreadOrder::kAscending, cuda_emulation::ThreadOrder::kDescending,
                             cuda_emulation::ThreadOrder::kRandom}) {
      cuda_emulation::set_thread_order(order, 7);
      std::printf("%s: %s\n", name, named.runs_right(numbers.get(), copy.get()) ? "right" : "wrong");
    }
    return 0;
  }
  std::fprintf(stderr, "no bug is called %s\n", name);
  return 2;
}
