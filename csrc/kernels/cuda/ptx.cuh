// PTX instructions for which CUDA C++ has no function, and what else takes inline assembly: a hint to the compiler. The
// CPU emulation has its own definitions of all of this.
#pragma once

#include <cstdint>

namespace ptx {

// Whether the architecture being compiled for multiplies 16x16 by 16x8 tiles of both half types.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kHasMma = false;
#else
inline constexpr bool kHasMma = true;
#endif

// Whether it compares the two bfloat16 of a word with one instruction. Every architecture does so for float16.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr bool kComparesBFloat16Pairs = false;
#else
inline constexpr bool kComparesBFloat16Pairs = true;
#endif

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Loads four 8x8 matrices of 16-bit elements. Lane 8 * m + r passes the address of row r of matrix m, 16 bytes of
// shared memory. Lane l receives elements 2 * (l % 4) and 2 * (l % 4) + 1 of row l / 4 of each matrix.
__device__ __forceinline__ void ldmatrix(uint32_t (&matrices)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// sums += a * b, computed by a warp; a is 16x16, b is 16x8. With g = lane / 4 and q = 2 * (lane % 4), a lane holds
// these elements (row, column):
//
//     a       (g, q) (g + 8, q) (g, q + 8) (g + 8, q + 8), each with the element to its right
//     b       (q, g) (q + 8, g), each with the element below it
//     sums    (g, q) (g, q + 1) (g + 8, q) (g + 8, q + 1)
__device__ __forceinline__ void mma_float16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bfloat16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2 to the power x, with a relative error of 2^-22; a denormal result becomes zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// Returns the pointer, which must be to global memory, and which the compiler then keeps in a register. Otherwise, it
// may compute the pointer again for each access under a condition.
template <typename T>
__device__ __forceinline__ T* keep(T* pointer) {
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// Copies 4, 8 or 16 bytes to shared memory; both addresses are aligned to as many. The copy is asynchronous where the
// architecture supports it.
template <int kBytes = 16>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what the instruction copies");
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  struct alignas(kBytes) Bytes {
    char byte[kBytes];
  };
  *static_cast<Bytes*>(shared) = *static_cast<const Bytes*>(global);
#else
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(kBytes)
                 : "memory");
  }
#endif
}

// Waits until this thread's copies have arrived. Other threads see them after a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace ptx
