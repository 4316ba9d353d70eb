// Elements on the device: half types, stored as raw bits and computed in float32; 16-byte vectors; ReLU masks on raw
// bits; and the choice of a kernel's element type from an ElementType.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../element_type.h"
#include "../work.h"
#include "runtime.cuh"

namespace segext {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// The type in which elements are compared and summed. Widening is exact. Narrowing rounds to nearest even and returns a
// widened element unchanged.
template <typename T>
struct Element {
  using Wide = T;
  __device__ __forceinline__ static Wide widen(T value) { return value; }
  __device__ __forceinline__ static T narrow(Wide value) { return value; }
};

template <>
struct Element<Float16> {
  using Wide = float;
  __device__ __forceinline__ static Wide widen(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }
  __device__ __forceinline__ static Float16 narrow(Wide value) { return {__half_as_ushort(__float2half_rn(value))}; }
};

template <>
struct Element<BFloat16> {
  using Wide = float;
  __device__ __forceinline__ static Wide widen(BFloat16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
  }
  __device__ __forceinline__ static BFloat16 narrow(Wide value) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  }
};

template <typename T>
using WideOf = typename Element<T>::Wide;

__device__ __forceinline__ float multiply_add(float a, float b, float sum) { return fmaf(a, b, sum); }
__device__ __forceinline__ double multiply_add(double a, double b, double sum) { return fma(a, b, sum); }

// The number of bytes that one 128-bit access moves.
inline constexpr int kVectorBytes = 16;

template <typename T>
struct alignas(kVectorBytes) Vector {
  static constexpr int kLanes = kVectorBytes / sizeof(T);
  T lane[kLanes];
};

// The bits of a vector as 32-bit words, each of which holds one or two lanes.
template <typename T>
__device__ __forceinline__ Vector<uint32_t> as_words(const Vector<T>& vector) {
  Vector<uint32_t> words;
  memcpy(&words, &vector, kVectorBytes);
  return words;
}

template <typename T>
__device__ __forceinline__ Vector<T> from_words(const Vector<uint32_t>& words) {
  Vector<T> vector;
  memcpy(&vector, &words, kVectorBytes);
  return vector;
}

// Widens one lane. Either of the two bfloat16 lanes of a word takes one instruction to become float32.
template <typename T>
__device__ __forceinline__ WideOf<T> widen_lane(const Vector<T>& vector, int lane) {
  return Element<T>::widen(vector.lane[lane]);
}

__device__ __forceinline__ float widen_lane(const Vector<BFloat16>& vector, int lane) {
  const uint32_t word = as_words(vector).lane[lane / 2];
  return __uint_as_float(lane % 2 != 0 ? word & 0xffff0000u : word << 16);
}

// Reinterprets a 32-bit word as a CUDA type of two elements, such as __half2.
template <typename Pair>
__device__ __forceinline__ Pair pair_of(uint32_t word) {
  Pair pair;
  memcpy(&pair, &word, sizeof(pair));
  return pair;
}

// Compares both 16-bit elements of a word at once, on architectures that can. The result is a mask: all bits of an
// element are set where the comparison holds.
template <typename T>
struct WordCompare {
  static constexpr bool kExists = false;
};

template <>
struct WordCompare<Float16> {
  static constexpr bool kExists = true;
  __device__ __forceinline__ static uint32_t greater(uint32_t a, uint32_t b) {
    return __hgt2_mask(pair_of<__half2>(a), pair_of<__half2>(b));
  }
  __device__ __forceinline__ static uint32_t is_nan(uint32_t a) {
    return __hneu2_mask(pair_of<__half2>(a), pair_of<__half2>(a));
  }
};

template <>
struct WordCompare<BFloat16> {
  static constexpr bool kExists = ptx::kComparesBFloat16Pairs;
  __device__ __forceinline__ static uint32_t greater(uint32_t a, uint32_t b) {
    return __hgt2_mask(pair_of<__nv_bfloat162>(a), pair_of<__nv_bfloat162>(b));
  }
  __device__ __forceinline__ static uint32_t is_nan(uint32_t a) {
    return __hneu2_mask(pair_of<__nv_bfloat162>(a), pair_of<__nv_bfloat162>(a));
  }
};

// kCount neighbouring elements of a row, moved by one access.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T)) Lanes {
  static constexpr int kLanes = kCount;
  T lane[kCount];
};

// Half of a Vector, such as the pooled elements of the 2x2 tiles that one Vector of the full map covers.
template <typename T>
using HalfVector = Lanes<T, kVectorBytes / 2 / sizeof(T)>;

template <typename T>
__device__ __forceinline__ Vector<T> fill_vector(T value) {
  Vector<T> vector;
#pragma unroll
  for (int k = 0; k < Vector<T>::kLanes; ++k) vector.lane[k] = value;
  return vector;
}

// Reads or writes `V`, a vector of T, at an address aligned for it.
template <typename V, typename T>
__device__ __forceinline__ V load_vector(const T* __restrict__ address) {
  return *reinterpret_cast<const V*>(address);
}

template <typename V, typename T>
__device__ __forceinline__ void store_vector(T* address, const V& vector) {
  *reinterpret_cast<V*>(address) = vector;
}

inline bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

// The bits of an element as an unsigned integer, for kernels that move values and never compute with them. There is one
// such type per element size.
template <int kBytes>
struct RawBits;
template <>
struct RawBits<2> {
  using Type = uint16_t;
};
template <>
struct RawBits<4> {
  using Type = uint32_t;
};
template <>
struct RawBits<8> {
  using Type = uint64_t;
};
template <typename T>
using RawBitsOf = typename RawBits<sizeof(T)>::Type;

// The bits of +infinity in a floating-point type. Bits of a larger magnitude are NaN.
inline uint64_t infinity_bits(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return 0x7f800000u;
    case ElementType::kFloat64:
      return 0x7ff0000000000000u;
    case ElementType::kFloat16:
      return 0x7c00u;
    case ElementType::kBFloat16:
      return 0x7f80u;
    default:
      return 0;
  }
}

// Selects the values that a pool's fused ReLU lets through: those whose pooled output is positive or NaN. Without a
// fused ReLU, `output` is null and all values pass. Every IEEE format consists of a sign and a magnitude, so one test
// on the bits serves all types of the same size.
template <typename Bits>
struct ReluMask {
  const Bits* output;  // pooled map, or null
  Bits infinity;

  __device__ __forceinline__ bool passes_bits(Bits bits) const {
    constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    const Bits magnitude = static_cast<Bits>(bits & static_cast<Bits>(~kSign));
    return magnitude > infinity || (magnitude != 0 && (bits & kSign) == 0);
  }

  __device__ __forceinline__ bool passes(int64_t element) const {
    return output == nullptr || passes_bits(output[element]);
  }

  // Zeroes the lanes of `values` that do not pass. The lanes are the pooled elements from `element` on.
  template <typename V>
  __device__ __forceinline__ void apply(int64_t element, V* values) const {
    if (output == nullptr) return;
    const V mask = load_vector<V>(output + element);
#pragma unroll
    for (int k = 0; k < V::kLanes; ++k) values->lane[k] = passes_bits(mask.lane[k]) ? values->lane[k] : Bits{0};
  }
};

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls `function` with the TypeTag of the kernel type for an ElementType: for_element takes any type, for_float takes
// floating-point types, and for_float_bits maps floating-point types to their raw bits. They return what `function`
// returns, or cudaErrorInvalidValue for a type that they do not take.
template <typename Function>
CudaStatus for_element(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kFloat32:
      return function(TypeTag<float>{});
    case ElementType::kFloat64:
      return function(TypeTag<double>{});
    case ElementType::kFloat16:
      return function(TypeTag<Float16>{});
    case ElementType::kBFloat16:
      return function(TypeTag<BFloat16>{});
    case ElementType::kInt8:
      return function(TypeTag<int8_t>{});
    case ElementType::kUInt8:
      return function(TypeTag<uint8_t>{});
    case ElementType::kInt16:
      return function(TypeTag<int16_t>{});
    case ElementType::kInt32:
      return function(TypeTag<int32_t>{});
    case ElementType::kInt64:
      return function(TypeTag<int64_t>{});
  }
  return cudaErrorInvalidValue;
}

template <typename Function>
CudaStatus for_float(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kFloat32:
      return function(TypeTag<float>{});
    case ElementType::kFloat64:
      return function(TypeTag<double>{});
    case ElementType::kFloat16:
      return function(TypeTag<Float16>{});
    case ElementType::kBFloat16:
      return function(TypeTag<BFloat16>{});
    default:
      return cudaErrorInvalidValue;
  }
}

template <typename Function>
CudaStatus for_float_bits(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kFloat32:
      return function(TypeTag<uint32_t>{});
    case ElementType::kFloat64:
      return function(TypeTag<uint64_t>{});
    case ElementType::kFloat16:
    case ElementType::kBFloat16:
      return function(TypeTag<uint16_t>{});
    default:
      return cudaErrorInvalidValue;
  }
}

// Whether a type has kernels with 128-bit accesses.
template <typename T>
inline constexpr bool kHasVectorKernels = false;
template <>
inline constexpr bool kHasVectorKernels<float> = true;
template <>
inline constexpr bool kHasVectorKernels<Float16> = true;
template <>
inline constexpr bool kHasVectorKernels<BFloat16> = true;
template <>
inline constexpr bool kHasVectorKernels<uint16_t> = true;
template <>
inline constexpr bool kHasVectorKernels<uint32_t> = true;

}  // namespace segext
