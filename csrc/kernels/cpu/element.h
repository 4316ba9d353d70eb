// Properties of each element type that kernels need: its value in the type that scalar code compares and computes in,
// its rank in a pool, its NaNs, its lowest value.
//
// Vectors of half types are ranked as 16-bit integers, without conversion to float: sign and magnitude become a
// two's-complement number, so that -0 ties with +0. A NaN ranks above all numbers, and the higher the later its tap, so
// that the last NaN wins.
#pragma once

#include <limits>
#include <type_traits>

#include "../element_type.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

template <class T>
struct Number {
  using Raw = T;
  using Wide = T;
  using VectorRank = Vec<T>;
  static constexpr T kLowest =
      std::is_floating_point_v<T> ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
  // The most taps that a lane can number; those of a byte are read as unsigned.
  static constexpr int64_t kMaxVectorTaps = sizeof(T) == 1   ? 256
                                            : sizeof(T) == 2 ? 32768
                                                             : std::numeric_limits<int32_t>::max();

  static SEGEXT_INLINE T widen(T v) { return v; }
  static SEGEXT_INLINE T rank(T v) { return v; }
  static SEGEXT_INLINE Vec<T> rank(Vec<T> v, int64_t) { return v; }
  static SEGEXT_INLINE Vec<T> restart(Vec<T> rank) { return rank; }

  // Whether a later tap of rank `later` replaces the best so far. V is T or a vector of it.
  template <class V>
  static SEGEXT_INLINE auto beats(V later, V best) {
    if constexpr (std::is_floating_point_v<T>) {
      return (later > best) | (later != later);
    } else {
      return later > best;
    }
  }
};

SEGEXT_INLINE float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <int16_t kInfinity>
struct Half {
  using Raw = int16_t;
  using Wide = float;
  using VectorRank = Vec<int16_t>;
  static constexpr int16_t kLowest = static_cast<int16_t>(kInfinity | 0x8000);
  static constexpr int64_t kMaxVectorTaps = 0x7fff - kInfinity;

  static SEGEXT_INLINE float widen(int16_t v);
  static SEGEXT_INLINE Vec<int16_t> rank(Vec<int16_t> v, int64_t tap) {
    const Vec<int16_t> magnitude = v & int16_t{0x7fff}, sign = v >> 15;
    return magnitude > kInfinity ? broadcast(static_cast<int16_t>(kInfinity + 1 + tap)) : (magnitude ^ sign) - sign;
  }

  // The rank after which taps may be numbered from 1 again: a NaN among them still ranks higher.
  static SEGEXT_INLINE Vec<int16_t> restart(Vec<int16_t> rank) {
    return rank > kInfinity ? broadcast(static_cast<int16_t>(kInfinity + 1)) : rank;
  }

  // The rank of one element, for which all NaNs rank alike: of bfloat16, the float that it is the upper half of; of
  // float16, an integer, which takes less time than a conversion.
  static SEGEXT_INLINE auto rank(int16_t v) {
    if constexpr (kInfinity == 0x7f80) {
      return widen(v);
    } else {
      const int magnitude = v & 0x7fff;
      return magnitude > kInfinity ? kInfinity + 1 : v < 0 ? -magnitude : magnitude;
    }
  }

  static SEGEXT_INLINE bool beats(float later, float best) { return later > best || later != later; }
  static SEGEXT_INLINE bool beats(int later, int best) { return (later > best) | (later > kInfinity); }
  static SEGEXT_INLINE auto beats(Vec<int16_t> later, Vec<int16_t> best) { return later > best; }
};

template <>
SEGEXT_INLINE float Half<0x7f80>::widen(int16_t v) {
  return float_from_bits(static_cast<uint32_t>(static_cast<uint16_t>(v)) << 16);
}

// The compiler's own float16, for scalar conversions.
#if defined(__aarch64__)
using CompilerHalf = __fp16;  // before version 13, GCC knows _Float16 only in C
#else
using CompilerHalf = _Float16;
#endif

template <>
SEGEXT_INLINE float Half<0x7c00>::widen(int16_t v) {
  CompilerHalf value;
  std::memcpy(&value, &v, sizeof(value));
  return static_cast<float>(value);
}

using Float16 = Half<0x7c00>;
using BFloat16 = Half<0x7f80>;

// Calls `f` with the traits of `type`.
template <class F>
SEGEXT_INLINE void with_element(ElementType type, F&& f) {
  switch (type) {
    case ElementType::kFloat32:
      return f(Number<float>{});
    case ElementType::kFloat64:
      return f(Number<double>{});
    case ElementType::kFloat16:
      return f(Float16{});
    case ElementType::kBFloat16:
      return f(BFloat16{});
    case ElementType::kInt8:
      return f(Number<int8_t>{});
    case ElementType::kUInt8:
      return f(Number<uint8_t>{});
    case ElementType::kInt16:
      return f(Number<int16_t>{});
    case ElementType::kInt32:
      return f(Number<int32_t>{});
    case ElementType::kInt64:
      return f(Number<int64_t>{});
  }
}

// The same for kernels that take only floating-point types; `type` must be one of them.
template <class F>
SEGEXT_INLINE void with_floating_element(ElementType type, F&& f) {
  switch (type) {
    case ElementType::kFloat64:
      return f(Number<double>{});
    case ElementType::kFloat16:
      return f(Float16{});
    case ElementType::kBFloat16:
      return f(BFloat16{});
    default:
      return f(Number<float>{});
  }
}

// Calls f with an integer as wide as a floating-point element, for kernels that only move values.
template <class F>
SEGEXT_INLINE void with_bits(ElementType type, F&& f) {
  switch (element_size(type)) {
    case 2:
      return f(int16_t{});
    case 4:
      return f(int32_t{});
    default:
      return f(int64_t{});
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
