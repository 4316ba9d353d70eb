// Rows of values: conversion of half types to float32 and back, and the mask of a ReLU.
#pragma once

#include "element.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Zeroes the values whose ReLU output was not positive; NaN counts as positive, as in torch's threshold_backward. T is
// the raw type of E, or the integer of the same width that a kernel moves.
template <class E, class T>
SEGEXT_INLINE void mask_by_relu(const T* values, const typename E::Raw* relu_output, int64_t count, T* masked) {
  static_assert(sizeof(T) == sizeof(typename E::Raw));
  for (int64_t k = 0; k < count; ++k) masked[k] = E::widen(relu_output[k]) <= 0 ? T{0} : values[k];
}

// Widens a vector of half types to float32.
SEGEXT_INLINE Vec<float> widen(BFloat16, const int16_t* half) {
#if defined(__AVX512BW__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half));
  return reinterpret_cast<Vec<float>>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#elif defined(__AVX2__)
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(half));
  return reinterpret_cast<Vec<float>>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
  Vec<float> v;
  for (int k = 0; k < kLanes<float>; ++k) v[k] = BFloat16::widen(half[k]);
  return v;
#endif
}

SEGEXT_INLINE Vec<float> widen(Float16, const int16_t* half) {
#if defined(__AVX512BW__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(half)));
#else
  Vec<float> v;
  for (int k = 0; k < kLanes<float>; ++k) v[k] = Float16::widen(half[k]);
  return v;
#endif
}

// Rounds two vectors of float32 to one of a half type: to nearest, ties to even. NaN stays NaN.
SEGEXT_INLINE Vec<int16_t> narrow(BFloat16, Vec<float> low, Vec<float> high) {
  const auto rounded = [](Vec<float> v) SEGEXT_LAMBDA_INLINE {
    const Vec<uint32_t> bits = reinterpret_cast<Vec<uint32_t>>(v), up = bits + (0x7fff + (bits >> 16 & 1));
    return reinterpret_cast<Vec<int16_t>>(v != v ? broadcast(0x7fc00000u) : up);
  };
  const Vec<int16_t> words[] = {rounded(low), rounded(high)};
  return deinterleave<2, 1>(words, LaneSequence<int16_t>{});  // the upper half of each word
}

// Like `narrow`, for sums of half types and of products of two of them. NaNs in such sums come from half types or are
// the processor's default NaN, so their lower 16 bits are zero, and there is no check for NaN. A NaN with bits set only
// in the lower half could become infinity.
SEGEXT_INLINE Vec<int16_t> narrow_products(BFloat16, Vec<float> low, Vec<float> high) {
  using Words = Vec<uint16_t>;
  const Words pairs[] = {reinterpret_cast<Words>(low), reinterpret_cast<Words>(high)};
  const Words lower = deinterleave<2, 0>(pairs, LaneSequence<uint16_t>{});
  const Words upper = deinterleave<2, 1>(pairs, LaneSequence<uint16_t>{});
  const Words odd = upper & broadcast(uint16_t{1});  // ties round up where the upper half is odd
  return reinterpret_cast<Vec<int16_t>>((lower | odd) > uint16_t{0x8000} ? upper + uint16_t{1} : upper);
}

SEGEXT_INLINE Vec<int16_t> narrow(Float16, Vec<float> low, Vec<float> high) {
#if defined(__AVX512BW__)
  const __m256i halves[] = {_mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT),
                            _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT)};
  return reinterpret_cast<Vec<int16_t>>(_mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1));
#elif defined(__AVX2__)
  const __m128i halves[] = {_mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT)};
  return reinterpret_cast<Vec<int16_t>>(_mm256_set_m128i(halves[1], halves[0]));
#else
  Vec<int16_t> v;
  for (int k = 0; k < kLanes<int16_t>; ++k) {
    const auto half = static_cast<CompilerHalf>(k < kLanes<float> ? low[k] : high[k - kLanes<float>]);
    int16_t bits;
    std::memcpy(&bits, &half, sizeof(bits));
    v[k] = bits;
  }
  return v;
#endif
}

SEGEXT_INLINE Vec<int16_t> narrow_products(Float16, Vec<float> low, Vec<float> high) {
  return narrow(Float16{}, low, high);
}

// The same for runs of values.
template <class E>
SEGEXT_INLINE void widen(E, const int16_t* half, int64_t count, float* values) {
  int64_t k = 0;
  for (; k + kLanes<float> <= count; k += kLanes<float>) store(values + k, widen(E{}, half + k));
  for (; k < count; ++k) values[k] = E::widen(half[k]);
}

template <class E>
SEGEXT_INLINE void narrow(E, const float* values, int64_t count, int16_t* half) {
  constexpr int64_t kN = kLanes<float>;
  int64_t k = 0;
  for (; k + 2 * kN <= count; k += 2 * kN) store(half + k, narrow(E{}, load(values + k), load(values + k + kN)));
  if (k == count) return;
  float last[2 * kN] = {};
  std::memcpy(last, values + k, (count - k) * sizeof(float));
  store_partial(half + k, narrow(E{}, load(last), load(last + kN)), count - k);
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
