// Rows of values on their way into scatter or out of gather: the ReLU mask, and half types widened for sums.
#pragma once

#include "element.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Zeroes the values whose ReLU output was not positive; NaN counts as positive, as in torch's threshold_backward.
template <class E>
SEGEXT_INLINE void mask_by_relu(const typename E::Raw* values, const typename E::Raw* relu_output, int64_t count,
                                typename E::Raw* masked) {
  using Raw = typename E::Raw;
  for (int64_t k = 0; k < count; ++k) masked[k] = E::rank(relu_output[k]) <= 0 ? Raw{0} : values[k];
}

template <class E>
SEGEXT_INLINE void widen(E, const int16_t* half, int64_t count, float* values) {
  for (int64_t k = 0; k < count; ++k) values[k] = E::rank(half[k]);
}

SEGEXT_INLINE void narrow(BFloat16, const float* values, int64_t count, int16_t* half) {
  for (int64_t k = 0; k < count; ++k) {
    uint32_t bits;
    std::memcpy(&bits, values + k, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    half[k] = static_cast<int16_t>(values[k] != values[k] ? 0x7fc0 : rounded);
  }
}

SEGEXT_INLINE void narrow(Float16, const float* values, int64_t count, int16_t* half) {
  for (int64_t k = 0; k < count; ++k) {
    const _Float16 v = static_cast<_Float16>(values[k]);
    std::memcpy(half + k, &v, sizeof(v));
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
