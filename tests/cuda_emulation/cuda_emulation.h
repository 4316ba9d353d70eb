// Runs CUDA kernels on one CPU thread, so that tests need no GPU and sanitizers see every access.
//
// Included in place of the CUDA headers where SEGEXT_CUDA_EMULATION is defined. A kernel is an ordinary function here:
// every CUDA thread is a fiber, blocks run one after another, and shuffles, votes and barriers switch fibers. What CUDA
// leaves undefined stops the program with a message: barriers that some threads miss, shuffles from lanes that take no
// part, warps that wait for a lane that never arrives. ThreadSanitizer finds races (see cuda_emulation.cpp).
//
// The lanes of a warp exchange their operands and compute tile products from them. An asynchronous copy arrives when
// its thread waits for it; until then its destination holds garbage. Not emulated: the memory model between blocks,
// clusters, and the limit on static shared memory (tests/test_cuda_build.py checks it).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "half_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // only one block runs at a time

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81 };
struct cudaFuncAttributes {
  int ptxVersion;
};

namespace cuda_emulation {

inline constexpr unsigned kWarpThreads = 32;

// The order in which the threads of a block run between barriers and exchanges. A correct kernel does not depend on it.
enum class ThreadOrder { kAscending, kDescending, kRandom };

void set_thread_order(ThreadOrder order, uint32_t seed = 0);

// There is one device for each major compute capability. This selects the current one, and code counts as compiled for
// it. Kernels are compiled with every instruction whatever this says.
void set_compute_capability(int major);
int compute_capability();

// How many multiprocessors every device claims to have; 1 unless set. Blocks run one after another in any case.
void set_multiprocessors(int count);
int multiprocessors();

// Sets a function that is called with each kernel that is launched, with the number of its threads, and with the bytes
// of dynamic shared memory of a block.
void set_launch_observer(void (*observer)(const void* kernel, int64_t threads, int64_t shared_bytes));

// Sets a function that is called after each block that has run.
void set_block_observer(void (*observer)());

// Runs only `count` blocks of each launch, evenly spread; 0 runs all. For those who watch kernels, not their results.
void set_block_sample(unsigned count);

// Whether launches run at all, which they do unless told otherwise. Without running, arrays may be of any size.
void set_runs(bool runs);

bool in_thread();          // whether a thread of a kernel is running
unsigned thread_number();  // of the running thread in its block
unsigned lane_index();
void* dynamic_shared_memory();
size_t dynamic_shared_bytes();
cudaError_t last_error();  // and clears it

// Stop the program unless the address is a multiple of `bytes`; and unless these bytes all lie in the block's dynamic
// shared memory as well.
void expect_aligned(const void* address, size_t bytes, const char* operation, int line);
void expect_shared(const void* address, size_t bytes, const char* operation, int line);

// The asynchronous copies that the running thread has not yet waited for.
struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
std::vector<Copy>& pending_copies();

inline constexpr unsigned char kUninitialised = 0xcd;

// The operations that fibers wait in; `operation` and `line` are for messages. Only the first two, the barriers, order
// the memory accesses of threads.
void wait_for_block(const char* operation, int line);
void wait_for_warp(unsigned mask, const char* operation, int line);
uint64_t exchange(unsigned mask, uint64_t value, unsigned source_lane, const char* operation, int line);
void exchange_all(uint64_t value, uint64_t (&values)[kWarpThreads], const char* operation, int line);
unsigned vote(unsigned mask, bool predicate, const char* operation, int line);

// Runs every block of a launch, or returns the error with which a GPU would refuse it.
cudaError_t run(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(void*), void* closure);

template <typename To, typename From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) >= sizeof(From) || sizeof(From) == 8, "no bits are lost");
  To to{};
  std::memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source_lane, const char* operation, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 64 bits");
  return bit_cast<T>(exchange(mask, bit_cast<uint64_t>(value), source_lane, operation, line));
}

using half_types::float_to_bfloat16;
using half_types::float_to_half;
using half_types::half_to_float;

}  // namespace cuda_emulation

// For the running thread.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

// Runtime. A launch is complete when it returns, whatever its stream.

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  auto closure = [&] { kernel(static_cast<Parameters>(arguments)...); };
  return cuda_emulation::run(
      reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim, config->dynamicSmemBytes,
      [](void* self) { (*static_cast<decltype(closure)*>(self))(); }, &closure);
}

inline cudaError_t cudaGetLastError() { return cuda_emulation::last_error(); }

inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda_emulation::compute_capability();
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? cuda_emulation::multiprocessors() : 100 * 1024;
  return cudaSuccess;
}

template <typename... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Parameters...)) {
  attributes->ptxVersion = 10 * cuda_emulation::compute_capability();
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

// Barriers, votes and shuffles. `line` is that of the caller.

inline void __syncthreads(int line = __builtin_LINE()) { cuda_emulation::wait_for_block("__syncthreads", line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  cuda_emulation::wait_for_warp(mask, "__syncwarp", line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return cuda_emulation::vote(mask, predicate != 0, "__ballot_sync", line);
}

inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return cuda_emulation::vote(mask, predicate != 0, "__any_sync", line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return cuda_emulation::vote(mask, predicate != 0, "__all_sync", line) == mask;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const unsigned first = cuda_emulation::lane_index() & ~(width - 1u);
  return cuda_emulation::shuffle(mask, value, first + (source & (width - 1u)), "__shfl_sync", line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
  const unsigned lane = cuda_emulation::lane_index();
  const unsigned end = (lane & ~(width - 1u)) + width;
  const unsigned source = lane ^ static_cast<unsigned>(lanes);
  return cuda_emulation::shuffle(mask, value, source < end ? source : lane, "__shfl_xor_sync", line);
}

[[noreturn]] inline void __trap() { std::abort(); }

// Memory.

template <typename T>
T __ldg(const T* address) {
  return *address;
}

template <typename T>
T atomicAdd(T* address, T value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <typename T>
T atomicMax(T* address, T value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

// Arithmetic and conversions.

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }

inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

// The product of two floats is exact in double.
inline float __fmul_rd(float a, float b) {
  const double product = static_cast<double>(a) * b;
  const float nearest = static_cast<float>(product);
  return nearest > product ? std::nextafter(nearest, -std::numeric_limits<float>::infinity()) : nearest;
}

inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }  // NaN gives zero

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

// Each hexadecimal digit of the selector picks a byte of the 64-bit value b : a. Digits above 7 are not emulated.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int k = 0; k < 4; ++k) result |= static_cast<unsigned>(bytes >> (selector >> 4 * k & 7) * 8 & 0xff) << 8 * k;
  return result;
}

inline float __uint_as_float(unsigned bits) { return cuda_emulation::bit_cast<float>(bits); }

struct __half {
  uint16_t bits;
};

struct __nv_bfloat16 {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return cuda_emulation::half_to_float(value.bits); }
inline __half __float2half_rn(float value) { return {cuda_emulation::float_to_half(value)}; }

inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return {cuda_emulation::float_to_bfloat16(value)}; }

struct __half2 {
  __half x, y;
};

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline unsigned lane_masks(bool x, bool y) { return (x ? 0xffffu : 0) | (y ? 0xffff0000u : 0); }

inline unsigned __hgt2_mask(__half2 a, __half2 b) {
  return lane_masks(__half2float(a.x) > __half2float(b.x), __half2float(a.y) > __half2float(b.y));
}
inline unsigned __hneu2_mask(__half2 a, __half2 b) {
  return lane_masks(__half2float(a.x) != __half2float(b.x), __half2float(a.y) != __half2float(b.y));
}
inline unsigned __hgt2_mask(__nv_bfloat162 a, __nv_bfloat162 b) {
  return lane_masks(__bfloat162float(a.x) > __bfloat162float(b.x), __bfloat162float(a.y) > __bfloat162float(b.y));
}
inline unsigned __hneu2_mask(__nv_bfloat162 a, __nv_bfloat162 b) {
  return lane_masks(__bfloat162float(a.x) != __bfloat162float(b.x), __bfloat162float(a.y) != __bfloat162float(b.y));
}

// The instructions of csrc/kernels/cuda/ptx.cuh, which says what each lane passes and receives.

namespace ptx {

inline constexpr bool kHasMma = true;
inline constexpr bool kComparesBFloat16Pairs = false;  // float16 tests the path of architectures that do

inline void ldmatrix(uint32_t (&matrices)[4], const void* shared_row, int line = __builtin_LINE()) {
  cuda_emulation::expect_shared(shared_row, sizeof(uint4), "ldmatrix", line);
  uint64_t rows[cuda_emulation::kWarpThreads];
  cuda_emulation::exchange_all(reinterpret_cast<uintptr_t>(shared_row), rows, "ldmatrix", line);
  const unsigned lane = cuda_emulation::lane_index();
  for (unsigned m = 0; m < 4; ++m) {
    const auto* row = reinterpret_cast<const uint4*>(rows[8 * m + lane / 4]);
    const unsigned words[] = {row->x, row->y, row->z, row->w};
    matrices[m] = words[lane % 4];
  }
}

// Not instrumented by sanitizers: it touches only its own arrays, and checking them would take much of the tests' time.
template <typename Widen>
__attribute__((no_sanitize("address", "undefined"))) void multiply(float (&sums)[4], const uint32_t (&a)[4],
                                                                   const uint32_t (&b)[2], const Widen& widen,
                                                                   int line) {
  uint64_t left[2][cuda_emulation::kWarpThreads], right[cuda_emulation::kWarpThreads];
  for (int k = 0; k < 2; ++k) {
    cuda_emulation::exchange_all(a[2 * k] | uint64_t{a[2 * k + 1]} << 32, left[k], "mma", line);
  }
  cuda_emulation::exchange_all(b[0] | uint64_t{b[1]} << 32, right, "mma", line);
  const unsigned lane = cuda_emulation::lane_index();
  const auto widen_pair = [&](uint64_t word, float* row) {  // two 16-bit elements of a word
    row[0] = widen(static_cast<uint16_t>(word));
    row[1] = widen(static_cast<uint16_t>(word >> 16));
  };
  float rows[2][16], columns[2][16];
  for (unsigned q = 0; q < 4; ++q) {
    for (unsigned k = 0; k < 2; ++k) {
      const uint64_t of_row = left[k][lane / 4 * 4 + q];
      widen_pair(of_row, &rows[0][2 * q + 8 * k]);
      widen_pair(of_row >> 32, &rows[1][2 * q + 8 * k]);
      const uint64_t of_column = right[(lane % 4 * 2 + k) * 4 + q];
      widen_pair(of_column, &columns[k][2 * q]);
      widen_pair(of_column >> 32, &columns[k][2 * q + 8]);
    }
  }
  for (int k = 0; k < 16; ++k) {
    for (int s = 0; s < 4; ++s) sums[s] += rows[s / 2][k] * columns[s % 2][k];
  }
}

inline void mma_float16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  multiply(sums, a, b, cuda_emulation::half_to_float, line);
}

inline void mma_bfloat16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         int line = __builtin_LINE()) {
  multiply(sums, a, b, [](uint16_t bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }, line);
}

inline float exp2_approx(float x) {
  const float power = std::exp2(x);
  return power < std::numeric_limits<float>::min() ? 0 : power;
}

template <typename T>
T* keep(T* pointer) {
  return pointer;
}

template <int kBytes = 16>
void copy_async(void* shared, const void* global, int line = __builtin_LINE()) {
  cuda_emulation::expect_shared(shared, kBytes, "cp.async", line);
  cuda_emulation::expect_aligned(global, kBytes, "cp.async", line);
  std::memset(shared, cuda_emulation::kUninitialised, kBytes);
  cuda_emulation::pending_copies().push_back({shared, global, kBytes});
}

inline void wait_for_copies() {
  for (const cuda_emulation::Copy& copy : cuda_emulation::pending_copies()) {
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
  cuda_emulation::pending_copies().clear();
}

}  // namespace ptx
