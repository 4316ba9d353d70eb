// Two bugs for compute-sanitizer to find, so that a clean report of it means something: `memcheck` writes past an
// allocation, `racecheck` lets threads race in shared memory. In segext's namespace, by which kernels are chosen.
#include <cstdio>
#include <cstring>

namespace segext {

__global__ void planted_overrun_kernel(int* data, int size) { data[size + threadIdx.x] = 1; }

__global__ void planted_race_kernel(int* data) {
  __shared__ int shared[64];
  shared[threadIdx.x] = threadIdx.x;
  data[threadIdx.x] = shared[63 - threadIdx.x];  // of the other warp, without a barrier
}

}  // namespace segext

int main(int count, char** arguments) {
  int* data = nullptr;
  if (count != 2 || cudaMalloc(&data, 64 * sizeof(int)) != cudaSuccess) return 2;
  if (std::strcmp(arguments[1], "memcheck") == 0) {
    segext::planted_overrun_kernel<<<1, 64>>>(data, 64);
  } else {
    segext::planted_race_kernel<<<1, 64>>>(data);
  }
  std::printf("%s\n", cudaGetErrorString(cudaDeviceSynchronize()));
  return 0;
}
