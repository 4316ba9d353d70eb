// Kernels whose traffic is known, to test memory_traffic.cpp: prints what it counts of each.
#include <array>
#include <cstdio>
#include <memory>

#include "cuda_emulation.h"
#include "memory_traffic.h"

namespace {

constexpr int kThreads = 32, kElements = 2048;
__shared__ float shared[kElements];

// Lane k copies the element at place(k).
template <typename T, typename Place>
__device__ void copy(const T* from, T* to, Place place) {
  to[place(threadIdx.x)] = from[place(threadIdx.x)];
}

__global__ void coalesced_kernel(const float* from, float* to) {
  copy(from, to, [](unsigned k) { return k; });
}

__global__ void vectors_kernel(const float* from, float* to) {
  copy(reinterpret_cast<const float4*>(from), reinterpret_cast<float4*>(to), [](unsigned k) { return k; });
}

__global__ void misaligned_kernel(const float* from, float* to) {
  copy(from, to, [](unsigned k) { return k + 1; });
}

__global__ void every_second_kernel(const float* from, float* to) {
  copy(from, to, [](unsigned k) { return 2 * k; });
}

__global__ void far_apart_kernel(const float* from, float* to) {
  copy(from, to, [](unsigned k) { return kThreads * k; });
}

__global__ void same_kernel(const float* from, float* to) {
  copy(from, to, [](unsigned) { return 5u; });
}

__global__ void half_of_the_lanes_kernel(const float* from, float* to) {
  if (threadIdx.x % 2 == 0) copy(from, to, [](unsigned k) { return k; });
}

// Even lanes copy once, odd lanes twice: an instruction of all lanes, and one of half of them.
__global__ void uneven_loop_kernel(const float* from, float* to) {
  for (unsigned time = 0; time <= threadIdx.x % 2; ++time) {
    copy(from, to, [time](unsigned k) { return time * kThreads + k; });
  }
}

template <int kStride>
__global__ void banks_kernel(const float* from, float* to) {
  shared[threadIdx.x * kStride] = from[threadIdx.x];
  __syncwarp();
  to[threadIdx.x] = shared[0];
}

__global__ void vectors_of_banks_kernel(const float* from, float* to) {
  const auto vectors = reinterpret_cast<float4*>(shared);
  vectors[threadIdx.x] = reinterpret_cast<const float4*>(from)[threadIdx.x];
  __syncwarp();
  reinterpret_cast<float4*>(to)[threadIdx.x] = vectors[threadIdx.x];
}

void show(const char* name, void (*kernel)(const float*, float*)) {
  struct alignas(256) Elements : std::array<float, kElements> {};
  const auto from = std::make_unique<Elements>(), to = std::make_unique<Elements>();
  memory_traffic::start();
  memory_traffic::name_buffer("from", from->data(), sizeof(Elements));
  memory_traffic::name_buffer("to", to->data(), sizeof(Elements));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  cudaLaunchKernelEx(&config, kernel, static_cast<const float*>(from->data()), to->data());
  for (const auto& [place, t] : memory_traffic::counts()) {
    std::printf("%s\t%s\t%s\t%ld\t%ld\t%ld\t%ld\n", name, place.first.c_str(), place.second ? "written" : "read",
                t.requests, t.bytes, t.steps, t.fewest);
  }
}

}  // namespace

int main() {
  show("coalesced", coalesced_kernel);
  show("vectors", vectors_kernel);
  show("misaligned", misaligned_kernel);
  show("every second", every_second_kernel);
  show("far apart", far_apart_kernel);
  show("same", same_kernel);
  show("half of the lanes", half_of_the_lanes_kernel);
  show("uneven loop", uneven_loop_kernel);
  show("banks", banks_kernel<1>);
  show("every second bank", banks_kernel<2>);
  show("one bank", banks_kernel<32>);
  show("padded", banks_kernel<33>);
  show("vectors of banks", vectors_of_banks_kernel);
  return 0;
}
