// How threads and warps share the bytes of packed codes. switches.h defines the layout itself.
//
// A thread that holds several neighbouring elements reads or writes their codes as one run of whole bytes, in one
// access. Where each thread holds one element, a warp holds 32 consecutive elements, starting at a multiple of 32.
// Their codes are whole bytes too, which the warp assembles by shuffles. No byte has two writers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../switches.h"
#include "divisor.cuh"
#include "launch.cuh"
#include "runtime.cuh"

namespace segext {

inline constexpr int kMaxRunBytes = 8;

// Bits per code of 2x2 tiles and of 3x3 windows that overlap, and codes per byte of the former.
inline constexpr int kTileBits = code_bits(4), kOverlapBits = code_bits(9), kTilesPerByte = 8 / kTileBits;

// place_code puts a code at position k of a run; take_code reads it back.
__device__ __forceinline__ uint64_t place_code(uint32_t code, int k, int bits) {
  return static_cast<uint64_t>(code) << (k * bits);
}

__device__ __forceinline__ uint32_t take_code(uint64_t run, int k, int bits) {
  return static_cast<uint32_t>(run >> (k * bits)) & ((1u << bits) - 1);
}

// Whether the codes of all samples follow each other without a gap, so that an element's number in the whole tensor
// locates its code.
inline bool codes_are_flat(const PoolGeometry& g) {
  return g.samples <= 1 ||
         (pooled_elements(g) % 8 * g.bits % 8 == 0 && g.sample_bytes == code_bytes(pooled_elements(g), g.bits));
}

// Whether a run of `elements` codes is 1, 2, 4 or 8 whole bytes.
inline bool run_is_bytes(int elements, int bits) {
  const int run_bits = elements * bits;
  return run_bits == 8 || run_bits == 16 || run_bits == 32 || run_bits == 8 * kMaxRunBytes;
}

// Loads run number `run`. Each run has `bytes` bytes: 1, 2, 4 or 8, the same for all threads.
__device__ __forceinline__ uint64_t load_run(const uint8_t* __restrict__ codes, int64_t run, int bytes) {
  switch (bytes) {
    case 1:
      return codes[run];
    case 2:
      return reinterpret_cast<const uint16_t*>(codes)[run];
    case 4:
      return reinterpret_cast<const uint32_t*>(codes)[run];
    default:
      return reinterpret_cast<const uint64_t*>(codes)[run];
  }
}

__device__ __forceinline__ void store_run(uint8_t* codes, int64_t run, int bytes, uint64_t value) {
  switch (bytes) {
    case 1:
      codes[run] = static_cast<uint8_t>(value);
      break;
    case 2:
      reinterpret_cast<uint16_t*>(codes)[run] = static_cast<uint16_t>(value);
      break;
    case 4:
      reinterpret_cast<uint32_t*>(codes)[run] = static_cast<uint32_t>(value);
      break;
    default:
      reinterpret_cast<uint64_t*>(codes)[run] = value;
  }
}

// The codes of the kElements elements that start at `element`, a multiple of kElements. They all lie in one byte.
template <int kElements>
__device__ __forceinline__ uint32_t load_code_run(const uint8_t* __restrict__ codes, int64_t element, int bits) {
  const int64_t run = element / kElements;
  const int runs_per_byte = 8 / (kElements * bits);
  return static_cast<uint32_t>(codes[run / runs_per_byte]) >> (run % runs_per_byte * kElements * bits);
}

// The codes of a vector of 2x2 windows, as masks over its 32-bit words: which lanes have their code in the right
// column, and which in the lower row, of their window. A word holds one 32-bit lane or two 16-bit lanes.
template <int kLanes>
struct TileMasks {
  static constexpr int kWords = 4;
  static_assert(kLanes == kWords || kLanes == 2 * kWords, "lanes of 32 or 16 bits");
  uint32_t right[kWords], lower[kWords];

  __device__ __forceinline__ explicit TileMasks(uint64_t run) {
    constexpr int bits = kTileBits;
    // With two lanes per word, the second code is moved from next to the first into the upper half of the word.
    const uint32_t codes = static_cast<uint32_t>(run);
    const uint32_t spread = kLanes == kWords ? codes : codes | codes << (16 - bits);
    const uint32_t lane_ends = kLanes == kWords ? 1u : 0x00010001u;
    const uint32_t lane_ones = kLanes == kWords ? 0xffffffffu : 0xffffu;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int first = w * (kLanes / kWords) * bits;
      right[w] = (spread >> first & lane_ends) * lane_ones;
      lower[w] = (spread >> (first + 1) & lane_ends) * lane_ones;
    }
  }
};

// Converts a number to unsigned. Dividing one that is not negative by a power of two is then a single shift.
template <typename Index>
__device__ __forceinline__ typename std::make_unsigned<Index>::type as_unsigned(Index number) {
  return static_cast<typename std::make_unsigned<Index>::type>(number);
}

// load_code with a constant for `bits` in each branch, so that divisions become shifts. Threads do not diverge here.
template <typename Index>
__device__ __forceinline__ uint32_t load_any_code(const uint8_t* __restrict__ codes, Index element, int bits) {
  switch (bits) {
    case 1:
      return load_code(codes, as_unsigned(element), 1);
    case 2:
      return load_code(codes, as_unsigned(element), 2);
    case 4:
      return load_code(codes, as_unsigned(element), 4);
    case 8:
      return load_code(codes, as_unsigned(element), 8);
    case 16:
      return load_code(codes, as_unsigned(element), 16);
    default:
      return load_code(codes, as_unsigned(element), 32);
  }
}

// Stores the codes of a warp: lane k has the code of element `element`, which is 32 * m + k for some m. All lanes must
// call this; lanes past the sample's last element are not `present`.
template <typename Index>
__device__ __forceinline__ void store_warp_codes(uint8_t* codes, Index element, bool present, int bits, uint32_t code) {
  if (bits >= 8) {
    if (present) store_wide_code(codes, element, bits, code);
    return;
  }
  const int per_byte = 8 >> (bits / 2);  // 8, 4 or 2 for 1, 2 or 4 bits
  const int k = static_cast<int>(element) & (per_byte - 1);
  uint32_t byte = present ? static_cast<uint32_t>(place_code(code, k, bits)) : 0;
  for (int step = 1; step < per_byte; step *= 2) byte |= __shfl_xor_sync(0xffffffffu, byte, step);
  if (present && k == 0) codes[code_bytes(as_unsigned(element), bits)] = static_cast<uint8_t>(byte);
}

// Divides the elements of each sample among warps, 32 per warp; the last warp of a sample may be partly idle.
template <typename Index>
struct WarpRuns {
  Index samples;
  Index elements;  // of one sample
  Divisor<Index> warps_per_sample;

  // What a lane works on. All lanes of a warp have the same `sample`; a warp past the last sample has nothing to do.
  struct Lane {
    Index sample;
    Index element;
    bool present;
  };

  __device__ __forceinline__ Lane lane() const {
    const Index warp = static_cast<Index>(blockIdx.x) * Launch::kBlockWarps + threadIdx.x / Launch::kWarpThreads;
    Index warp_of_sample;
    Lane lane;
    lane.sample = warps_per_sample.divide(warp, &warp_of_sample);
    lane.element = warp_of_sample * Launch::kWarpThreads + threadIdx.x % Launch::kWarpThreads;
    lane.present = lane.element < elements;
    return lane;
  }
};

inline int64_t warps_per_sample(int64_t elements) { return ceil_divide(elements, Launch::kWarpThreads); }

template <typename Index>
WarpRuns<Index> warp_runs(int64_t samples, int64_t elements) {
  return {static_cast<Index>(samples), static_cast<Index>(elements), Divisor<Index>(warps_per_sample(elements))};
}

inline int64_t warp_run_threads(int64_t samples, int64_t elements) {
  return samples * warps_per_sample(elements) * Launch::kWarpThreads;
}

}  // namespace segext
