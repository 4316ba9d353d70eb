// Sums of products: the accumulation type, and conversions to and from it.
#pragma once

#include "element.h"
#include "values.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The type in which sums of elements with traits E are accumulated.
template <class E>
using SumOf = std::conditional_t<std::is_same_v<typename E::Raw, double>, double, float>;

// Converts a run of elements to the accumulation type.
template <class E, class Sum>
SEGEXT_INLINE void widen_run(const typename E::Raw* in, int64_t count, Sum* out) {
  if constexpr (std::is_same_v<typename E::Raw, Sum>) {
    std::memcpy(out, in, count * sizeof(Sum));
  } else {
    widen(E{}, in, count, out);
  }
}

template <class E, class Sum>
SEGEXT_INLINE void narrow_run(const Sum* in, int64_t count, typename E::Raw* out) {
  if constexpr (std::is_same_v<typename E::Raw, Sum>) {
    std::memcpy(out, in, count * sizeof(Sum));
  } else {
    narrow(E{}, in, count, out);
  }
}

// Loads a vector of elements and converts it to the accumulation type.
template <class E>
SEGEXT_INLINE Vec<SumOf<E>> widen_vector(const typename E::Raw* in) {
  if constexpr (std::is_same_v<typename E::Raw, SumOf<E>>) {
    return load(in);
  } else {
    return widen(E{}, in);
  }
}

// The same for the first `count` elements; the other lanes are zero.
template <class E>
SEGEXT_INLINE Vec<SumOf<E>> widen_up_to(const typename E::Raw* in, int64_t count) {
  using Sum = SumOf<E>;
  if constexpr (std::is_same_v<typename E::Raw, Sum>) {
    return load_up_to(in, count);
  } else {
    if (count >= kLanes<Sum>) return widen_vector<E>(in);
    typename E::Raw some[kLanes<Sum>] = {};
    if (count > 0) std::memcpy(some, in, count * sizeof(*in));
    return widen(E{}, some);
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
