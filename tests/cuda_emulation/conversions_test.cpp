// Tests the emulation's conversions of half types, on which the reference results rely too: every value of each type,
// and the numbers halfway between neighbours and next to these.
#include <cmath>
#include <cstdio>
#include <limits>

#include "cuda_emulation.h"

namespace {

int failures = 0;

void expect(bool right, const char* what, unsigned bits) {
  if (right) return;
  ++failures;
  std::printf("wrong: %s of 0x%04x\n", what, bits);
}

// The value of the bits of a half type with so many bits of mantissa, from the definition of IEEE 754. The largest
// exponent counts as one more binade, whose first value is where rounding reaches infinity.
double value_of(unsigned bits, int mantissa_bits) {
  const int exponent = static_cast<int>(bits >> mantissa_bits), bias = (1 << (14 - mantissa_bits)) - 1;
  const double fraction = std::ldexp(bits & ((1u << mantissa_bits) - 1), -mantissa_bits);
  return exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
}

// Tests the rounding to a half type: to the nearest value, of two to the one with an even mantissa.
template <typename Convert>
void test_rounding(const char* type, int mantissa_bits, const Convert& convert) {
  constexpr unsigned kNegative = 0x8000;
  const unsigned infinity = 0x8000u - (1u << mantissa_bits);
  for (unsigned bits = 0; bits < infinity; ++bits) {
    const double low = value_of(bits, mantissa_bits), high = value_of(bits + 1, mantissa_bits);
    const float exact = static_cast<float>(low), half_way = static_cast<float>((low + high) / 2);
    const float below = std::nextafter(half_way, 0.0f), above = std::nextafter(half_way, HUGE_VALF);
    expect(convert(exact) == bits && convert(-exact) == (bits | kNegative), type, bits);
    expect(convert(half_way) == bits + bits % 2 && convert(-half_way) == ((bits + bits % 2) | kNegative), type, bits);
    expect(convert(below) == bits && convert(above) == bits + 1, type, bits);
  }
  expect(convert(HUGE_VALF) == infinity && convert(-HUGE_VALF) == (infinity | kNegative), type, infinity);
  expect((convert(std::numeric_limits<float>::quiet_NaN()) & 0x7fff) > infinity, type, 0x7fff);
}

}  // namespace

int main() {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const float value = cuda_emulation::half_to_float(static_cast<uint16_t>(bits));
    const unsigned magnitude = bits & 0x7fff;
    const bool right = magnitude > 0x7c00    ? std::isnan(value)
                       : magnitude == 0x7c00 ? std::isinf(value)
                                             : std::fabs(value) == value_of(magnitude, 10);
    expect(right && (std::isnan(value) || std::signbit(value) == (bits >= 0x8000)), "float of half", bits);
  }
  test_rounding("half", 10, cuda_emulation::float_to_half);
  test_rounding("bfloat16", 7, cuda_emulation::float_to_bfloat16);
  return failures == 0 ? 0 : 1;
}
