// Division by a number that is fixed for a launch, as one multiplication.
#pragma once

#include <cstdint>
#include <type_traits>

#include "runtime.cuh"

namespace segext {

// Exact for every dividend a non-negative Index holds. With B = the bits of Index - 1 and s = ceil(log2(divisor)), the
// multiplier m = ceil(2^(B + s) / divisor) is too large by less than 2^s / 2^(B + s) = 2^-B, which no dividend below
// 2^B turns into a whole quotient.
template <typename Index>
class Divisor {
  static_assert(std::is_same<Index, int32_t>::value || std::is_same<Index, int64_t>::value, "the two index types");
  using Unsigned = typename std::make_unsigned<Index>::type;

 public:
  Divisor() = default;

  // The extent of an empty map divides by one; no element is there to ask.
  explicit Divisor(int64_t divisor) : divisor_(static_cast<Index>(divisor > 0 ? divisor : 1)) {
    while ((uint64_t{1} << shift_) < static_cast<uint64_t>(divisor_)) ++shift_;
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << (8 * sizeof(Index) - 1 + shift_);
    multiplier_ = static_cast<Unsigned>((power + divisor_ - 1) / divisor_);
  }

  // The quotient; the remainder goes to *remainder.
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
