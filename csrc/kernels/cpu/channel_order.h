// The order in which a kernel processes the channels of neighbouring cells: channels with equal codes are consecutive.
#pragma once

#include <cstring>

#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Sorts up to 64 channels of kCells cells by key: the codes that the cells have for the channel, the first cell's in
// the lowest bits. The sort is stable: channels with the same key are in ascending order.
template <int kCells>
class ChannelOrder {
 public:
  static constexpr int kMost = 64;  // channels: each has one bit of a mask
  static constexpr int kKeys = 1 << (2 * kCells);

  // Sorts `count` channels by their codes in each cell. Reads kMost codes from each pointer, whatever the count.
  SEGEXT_INLINE void sort(const uint8_t* const (&codes)[kCells], int64_t count) {
    const uint64_t all = ~uint64_t{0} >> (kMost - count);
    Bytes keys = load_bytes(codes[0]);
    if constexpr (kCells == 2) keys |= load_bytes(codes[1]) << 2;
    uint64_t found[kKeys];
#pragma GCC unroll 16
    for (int key = 0; key < kKeys; ++key) {
      found[key] = equal(keys, key) & all;
      counts_[key] = static_cast<uint8_t>(__builtin_popcountll(found[key]));
    }
#if defined(__AVX512BW__)
    static const bool compresses = __builtin_cpu_supports("avx512vbmi2");
    if (compresses) return list_compressing(found);
#endif
    list(found);
  }

  // All channels in order, followed by one valid entry, so that callers may load one channel ahead.
  SEGEXT_INLINE const uint8_t* begin() const { return channels_; }
  SEGEXT_INLINE int count(int key) const { return counts_[key]; }

 private:
  using Bytes = Vec<uint8_t, kMost>;

  // Lists the bits set in each mask. Entries written past a key's last channel are overwritten by the next key's.
  SEGEXT_INLINE void list(const uint64_t (&found)[kKeys]) {
    // Most keys have no more channels than this, so their number does not decide a branch that the processor would
    // often mispredict.
    constexpr int kAtOnce = 6;
    uint8_t* at = channels_;
    for (int key = 0; key < kKeys; ++key) {
      uint64_t left = found[key];
      for (int done = 0; done < counts_[key]; done += kAtOnce) {
#pragma GCC unroll 6
        for (int k = 0; k < kAtOnce; ++k) {
          at[done + k] = static_cast<uint8_t>(__builtin_ctzll(left | uint64_t{1} << (kMost - 1)));
          left &= left - 1;
        }
      }
      at += counts_[key];
    }
    *at = 0;
  }

#if defined(__AVX512BW__)
  // Uses VBMI2's byte compression, which not every processor of this level has.
  [[gnu::noinline, gnu::target("avx512vbmi2")]] void list_compressing(const uint64_t (&found)[kKeys]) {
    Bytes numbers;
    for (int k = 0; k < kMost; ++k) numbers[k] = static_cast<uint8_t>(k);
    uint8_t* at = channels_;
#pragma GCC unroll 16
    for (int key = 0; key < kKeys; ++key) {
      _mm512_storeu_si512(at, _mm512_maskz_compress_epi8(found[key], reinterpret_cast<__m512i>(numbers)));
      at += counts_[key];
    }
    *at = 0;
  }
#endif

  static SEGEXT_INLINE Bytes load_bytes(const uint8_t* codes) {
    Bytes bytes;
    std::memcpy(&bytes, codes, sizeof(bytes));
    return bytes;
  }

  // Mask with a bit set for each byte equal to `value`.
  static SEGEXT_INLINE uint64_t equal(const Bytes& bytes, int value) {
#if defined(__AVX512BW__)
    return _mm512_cmpeq_epi8_mask(reinterpret_cast<__m512i>(bytes), _mm512_set1_epi8(static_cast<char>(value)));
#elif defined(__SSE2__)
    uint64_t bits = 0;
    const __m128i wanted = _mm_set1_epi8(static_cast<char>(value));
    for (int k = 0; k < 4; ++k) {
      __m128i part;
      std::memcpy(&part, reinterpret_cast<const char*>(&bytes) + 16 * k, sizeof(part));
      bits |= uint64_t{static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(part, wanted)))} << (16 * k);
    }
    return bits;
#else
    uint64_t bits = 0;
    for (int k = 0; k < kMost; ++k) bits |= uint64_t{bytes[k] == value} << k;
    return bits;
#endif
  }

  uint8_t counts_[kKeys];
  uint8_t channels_[2 * kMost];
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
