// The running maxima of one window or a vector of windows, and the codes of the taps that hold them.
#pragma once

#include <cstdint>

#include "codes.cuh"
#include "element.cuh"
#include "runtime.cuh"

namespace segext {

// `floor` is the lower bound of a window with a tap inside the map: zero with ReLU, otherwise the lowest value.
// `lowest` is the value of a window without such a tap.
template <typename Wide>
struct MaxLimits {
  Wide floor, lowest;
};

// The running maximum of one window, whose taps come in row-major order. Among equal values the first wins, among NaNs
// the last.
template <typename Wide>
struct Maximum {
  Wide value;
  uint32_t code;

  __device__ __forceinline__ void take(Wide tap_value, uint32_t tap) {
    const bool wins = tap_value > value || tap_value != tap_value;
    value = wins ? tap_value : value;
    code = wins ? tap : code;
  }
};

// If both the maximum and the window's first tap are zero, the result has the sign of the first tap: among equal values
// the first wins, including values that only a ReLU makes equal.
template <typename Wide>
__device__ __forceinline__ Wide with_sign_of_first(Wide maximum, Wide first) {
  return maximum == 0 && first == 0 ? first : maximum;
}

// One running maximum for each lane of a vector. Each call takes the same tap of all windows.
template <typename T, bool kPairs = WordCompare<T>::kExists>
class VectorMaxima {
  static constexpr int kLanes = Vector<T>::kLanes;
  using Wide = WideOf<T>;

 public:
  __device__ __forceinline__ void start(const Maximum<Wide>& maximum) {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) maxima_[k] = maximum;
  }

  // Sets a different first tap for the first window.
  __device__ __forceinline__ void set_first_code(uint32_t code) { maxima_[0].code = code; }

  __device__ __forceinline__ void take(const Vector<T>& taps, uint32_t tap) {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) maxima_[k].take(widen_lane(taps, k), tap);
  }

  // `first`: each window's first tap.
  __device__ __forceinline__ Vector<T> values(const Vector<T>& first) const {
    Vector<T> values;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      values.lane[k] = Element<T>::narrow(with_sign_of_first(maxima_[k].value, widen_lane(first, k)));
    }
    return values;
  }

  __device__ __forceinline__ uint64_t codes(int bits) const {
    uint64_t run = 0;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) run |= place_code(maxima_[k].code, k, bits);
    return run;
  }

 private:
  Maximum<Wide> maxima_[kLanes];
};

// For half types, two windows per word. Codes have up to 8 bits and are kept in halves of words.
template <typename T>
class VectorMaxima<T, true> {
  static constexpr int kWords = kVectorBytes / 4;
  static constexpr uint32_t kBoth = 0x00010001u, kNaN = 0x7fffu * kBoth;  // the NaN that narrowing produces

 public:
  __device__ __forceinline__ void start(const Maximum<float>& maximum) {
    const uint32_t value = Element<T>::narrow(maximum.value).bits;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      values_.lane[w] = value * kBoth;
      codes_[w] = maximum.code * kBoth;
    }
  }

  __device__ __forceinline__ void set_first_code(uint32_t code) { codes_[0] = (codes_[0] & 0xffff0000u) | code; }

  __device__ __forceinline__ void take(const Vector<T>& taps, uint32_t tap) {
    const auto words = as_words(taps);
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t word = words.lane[w];
      const uint32_t wins = WordCompare<T>::greater(word, values_.lane[w]) | WordCompare<T>::is_nan(word);
      values_.lane[w] = (word & wins) | (values_.lane[w] & ~wins);
      codes_[w] = (tap * kBoth & wins) | (codes_[w] & ~wins);
    }
  }

  __device__ __forceinline__ Vector<T> values(const Vector<T>& first) const {
    const auto first_words = as_words(first);
    Vector<uint32_t> words;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const uint32_t nan = WordCompare<T>::is_nan(values_.lane[w]);
      const uint32_t zeros = zero_halves(values_.lane[w]) & zero_halves(first_words.lane[w]);
      words.lane[w] = (kNaN & nan) | (first_words.lane[w] & zeros) | (values_.lane[w] & ~(nan | zeros));
    }
    return from_words<T>(words);
  }

  __device__ __forceinline__ uint64_t codes(int bits) const {
    uint64_t run = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      run |= place_code(codes_[w] & 0xffffu, 2 * w, bits) | place_code(codes_[w] >> 16, 2 * w + 1, bits);
    }
    return run;
  }

 private:
  // All ones in each half of the word that is zero, of either sign.
  __device__ __forceinline__ static uint32_t zero_halves(uint32_t word) {
    const uint32_t not_zero = ((word & 0x7fff7fffu) + 0x7fff7fffu) >> 15 & kBoth;
    return ~(not_zero * 0xffffu);
  }

  Vector<uint32_t> values_;
  uint32_t codes_[kWords];
};

}  // namespace segext
