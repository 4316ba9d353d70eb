// Exponential and logarithm of vectors, for the arguments that a softmax needs.
//
// float32 uses the polynomials of Cephes (S. L. Moshier, expf.c and logf.c), accurate to about one unit in the last
// place; float64 calls the C library, lane by lane.
#pragma once

#include <cmath>

#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The bits of v's lanes as integers, and back.
SEGEXT_INLINE Vec<int32_t> bits_of(Vec<float> v) { return reinterpret_cast<Vec<int32_t>>(v); }
SEGEXT_INLINE Vec<float> from_bits(Vec<int32_t> v) { return reinterpret_cast<Vec<float>>(v); }

// coefficients[0] * x^n + ... + coefficients[n]
template <class V, size_t N>
SEGEXT_INLINE V polynomial(V x, const float (&coefficients)[N]) {
  V sum = V{} + coefficients[0];
#pragma GCC unroll 16
  for (size_t k = 1; k < N; ++k) sum = sum * x + coefficients[k];
  return sum;
}

// ln 2 as the sum of two numbers. The first has so few significant bits that its product with an exponent is exact.
inline constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// e^x for x <= 0 or NaN; zero where the result would be subnormal.
SEGEXT_INLINE Vec<float> exponential(Vec<float> x) {
  constexpr float kPolynomial[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                   4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLeast = -87.3f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: its last bit has the value 1, so adding it rounds to an integer
  const Vec<float> rounded = x * kLog2E + kRound, n = rounded - kRound;
  const Vec<float> r = x - n * kLn2High - n * kLn2Low;
  const Vec<float> power = from_bits((bits_of(rounded) << 23) + (127 << 23));  // 2^n
  const Vec<float> y = (polynomial(r, kPolynomial) * (r * r) + r + 1.0f) * power;
  return x < kLeast ? Vec<float>{} : y;
}

// ln x for normal x, or NaN.
SEGEXT_INLINE Vec<float> logarithm(Vec<float> x) {
  constexpr float kPolynomial[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                   -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                   2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  // The bits of sqrt(1/2). Mantissas are reduced to the range from sqrt(1/2) to sqrt(2).
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const Vec<int32_t> above = bits_of(x) - kRootHalf;
  const Vec<float> n = __builtin_convertvector(above >> 23, Vec<float>);
  const Vec<float> m = from_bits((above & 0x7fffff) + kRootHalf) - 1.0f, square = m * m;
  const Vec<float> tail = polynomial(m, kPolynomial) * m * square + n * kLn2Low - 0.5f * square;
  return x == x ? m + tail + n * kLn2High : x;
}

SEGEXT_INLINE Vec<double> exponential(Vec<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = std::exp(x[k]);
  return x;
}

SEGEXT_INLINE Vec<double> logarithm(Vec<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = std::log(x[k]);
  return x;
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
