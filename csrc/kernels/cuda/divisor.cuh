// Integer division by a number that is fixed for a launch, done with one multiplication.
#pragma once

#include <cstdint>
#include <type_traits>

#include "runtime.cuh"

namespace segext {

// Exact for every non-negative dividend of type Index. With B the number of bits of Index minus one, and
//   s = ceil(log2(divisor)),  m = ceil(2^(B + s) / divisor),
// the relative error of the multiplier m is less than 2^s / 2^(B + s) = 2^-B. For a dividend below 2^B, m raises the
// exact quotient by less than 1 / divisor, too little to reach the next integer.
template <typename Index>
class Divisor {
  static_assert(std::is_same<Index, int32_t>::value || std::is_same<Index, int64_t>::value, "the two index types");
  using Unsigned = typename std::make_unsigned<Index>::type;

 public:
  Divisor() = default;

  // A divisor of 0, the extent of an empty map, is replaced by 1. Such a map has no element for which a kernel would
  // divide.
  explicit Divisor(int64_t divisor) : divisor_(static_cast<Index>(divisor > 0 ? divisor : 1)) {
    while ((uint64_t{1} << shift_) < static_cast<uint64_t>(divisor_)) ++shift_;
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << (8 * sizeof(Index) - 1 + shift_);
    multiplier_ = static_cast<Unsigned>((power + divisor_ - 1) / divisor_);
  }

  __device__ __forceinline__ Index divisor() const { return divisor_; }

  // Returns the quotient and stores the remainder in *remainder.
  __device__ __forceinline__ Index divide(Index dividend, Index* remainder) const {
    const Index result = quotient(dividend);
    *remainder = dividend - result * divisor_;
    return result;
  }

  __device__ __forceinline__ Index quotient(Index dividend) const {
    const Unsigned twice = static_cast<Unsigned>(dividend) << 1;
    if constexpr (sizeof(Index) == 4) {
      return static_cast<Index>(__umulhi(twice, multiplier_) >> shift_);
    } else {
      return static_cast<Index>(__umul64hi(twice, multiplier_) >> shift_);
    }
  }

 private:
  Index divisor_ = 1;
  Unsigned multiplier_ = 0;
  int shift_ = 0;
};

}  // namespace segext
