// Vectors as wide as the instruction set that this file is compiled for, using GCC's vector extensions.
//
// Arithmetic and comparisons use the language's operators on these types; this file adds only the operations that the
// language lacks: partial and non-temporal memory access, (de)interleaving, and the widening of codes to lanes.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../inline.h"

// The build compiles every file that includes this one once per instruction set, each into a namespace of its own.
#ifndef SEGEXT_CPU_CAPABILITY
#error "SEGEXT_CPU_CAPABILITY names the instruction set: baseline, avx2 or avx512"
#endif

// Goes after the parameters of a lambda: the loops that call the lambda are only fast if its body is inlined.
#define SEGEXT_LAMBDA_INLINE __attribute__((always_inline))

namespace segext::SEGEXT_CPU_CAPABILITY {

#if defined(__AVX512BW__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int N = kLanes<T>>
using Vec = typename VectorOf<T, N>::type;

// The signed integer as wide as a lane: the type of comparison results, and of one code per lane.
template <int Bytes>
struct IntOf;
template <>
struct IntOf<1> {
  using type = int8_t;
};
template <>
struct IntOf<2> {
  using type = int16_t;
};
template <>
struct IntOf<4> {
  using type = int32_t;
};
template <>
struct IntOf<8> {
  using type = int64_t;
};
template <class T>
using Int = typename IntOf<sizeof(T)>::type;

template <class T>
SEGEXT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // x - 0 is x, even for -0, so the compiler drops the subtraction
}

// 0, 1, 2 and so on.
template <class T>
SEGEXT_INLINE Vec<Int<T>> lane_numbers() {
  Vec<Int<T>> numbers;
  for (int k = 0; k < kLanes<T>; ++k) numbers[k] = static_cast<Int<T>>(k);
  return numbers;
}

template <class T>
SEGEXT_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
SEGEXT_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

// Copies `count` elements, fewer than a vector has, in pieces of halving size: a single copy of variable size would be
// a call.
template <class T, int kBytes = kVectorBytes / 2>
SEGEXT_INLINE void copy_pieces(void* to, const void* from, int64_t count) {
  const bool takes = count * static_cast<int64_t>(sizeof(T)) & kBytes;
  if (takes) std::memcpy(to, from, kBytes);
  if constexpr (kBytes > static_cast<int>(sizeof(T))) {
    const int64_t taken = takes ? kBytes : 0;
    copy_pieces<T, kBytes / 2>(static_cast<char*>(to) + taken, static_cast<const char*>(from) + taken, count);
  }
}

// Whether one instruction loads or stores some lanes of a vector of any type.
#if defined(__AVX512BW__)
inline constexpr bool kMasksLanes = true;
#else
inline constexpr bool kMasksLanes = false;
#endif

// Loads the first `count` lanes (from none to all); the others are zero. Touches no other memory.
template <class T>
SEGEXT_INLINE Vec<T> load_partial(const T* p, int64_t count) {
#if defined(__AVX512BW__)
  __m512i v;
  if constexpr (sizeof(T) == 1) {
    v = _mm512_maskz_loadu_epi8(_bzhi_u64(~uint64_t{0}, count), p);
  } else if constexpr (sizeof(T) == 2) {
    v = _mm512_maskz_loadu_epi16(_bzhi_u32(~0u, count), p);
  } else if constexpr (sizeof(T) == 4) {
    v = _mm512_maskz_loadu_epi32(_bzhi_u32(0xffffu, count), p);
  } else {
    v = _mm512_maskz_loadu_epi64(_bzhi_u32(0xffu, count), p);
  }
  return reinterpret_cast<Vec<T>>(v);
#elif defined(__AVX2__)
  const int64_t words = count * static_cast<int64_t>(sizeof(T)) / 4;  // whole words of four bytes
  const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), end = _mm256_set1_epi32(static_cast<int>(words));
  __m256i v = _mm256_maskload_epi32(reinterpret_cast<const int*>(p), _mm256_cmpgt_epi32(end, number));
  if constexpr (sizeof(T) < 4) {
    int last = 0;  // the incomplete word at the end
    for (int64_t k = count; k-- > words * 4 / static_cast<int64_t>(sizeof(T));) {
      last = last << 8 * sizeof(T) | static_cast<std::make_unsigned_t<T>>(p[k]);
    }
    v = _mm256_or_si256(v, _mm256_and_si256(_mm256_cmpeq_epi32(end, number), _mm256_set1_epi32(last)));
  }
  return reinterpret_cast<Vec<T>>(v);
#else
  if (count == kLanes<T>) return load(p);
  Vec<T> v{};
  copy_pieces<T>(&v, p, count);
  return v;
#endif
}

template <class T>
SEGEXT_INLINE void store_partial(T* p, Vec<T> v, int64_t count) {
#if defined(__AVX512BW__)
  const __m512i bits = reinterpret_cast<__m512i>(v);
  if constexpr (sizeof(T) == 1) {
    _mm512_mask_storeu_epi8(p, _bzhi_u64(~uint64_t{0}, count), bits);
  } else if constexpr (sizeof(T) == 2) {
    _mm512_mask_storeu_epi16(p, _bzhi_u32(~0u, count), bits);
  } else if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(p, _bzhi_u32(0xffffu, count), bits);
  } else {
    _mm512_mask_storeu_epi64(p, _bzhi_u32(0xffu, count), bits);
  }
#elif defined(__AVX2__)
  // Stores pieces straight from registers. Those of copy_pieces would be read back from a store of the whole vector and
  // wait for it, and a masked store takes forty micro-operations on some processors.
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  if (bytes == kVectorBytes) return store(p, v);
  auto* at = reinterpret_cast<char*>(p);
  const __m256i all = reinterpret_cast<__m256i>(v);
  __m128i half = _mm256_castsi256_si128(all);
  if (bytes & 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(at), half);
    half = _mm256_extracti128_si256(all, 1);
    at += 16;
  }
  int64_t piece = _mm_cvtsi128_si64(half);
  if (bytes & 8) {
    std::memcpy(at, &piece, 8);
    piece = _mm_extract_epi64(half, 1);
    at += 8;
  }
  const auto put = [&](auto size) {
    if ((bytes & size()) == 0) return;
    std::memcpy(at, &piece, size());
    piece >>= 8 * size();
    at += size();
  };
  if constexpr (sizeof(T) <= 4) put(std::integral_constant<int, 4>{});
  if constexpr (sizeof(T) <= 2) put(std::integral_constant<int, 2>{});
  if constexpr (sizeof(T) == 1) put(std::integral_constant<int, 1>{});
#else
  if (count == kLanes<T>) return store(p, v);
  copy_pieces<T>(p, &v, count);
#endif
}

// Loads the first `count` lanes, at most a vector; none if `count` is negative. A full vector is a plain load.
template <class T>
SEGEXT_INLINE Vec<T> load_up_to(const T* p, int64_t count) {
  return count >= kLanes<T> ? load(p) : load_partial(p, count > 0 ? count : 0);
}

// Stores that bypass the caches. `p` must be aligned to kVectorBytes. Needs stream_fence before another thread reads
// the data.
template <class T>
SEGEXT_INLINE void store_stream(T* p, Vec<T> v) {
#if defined(__AVX512BW__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
  store(p, v);
#endif
}

// Prefetches a cache line that will soon be written. `p` need not be a valid address.
SEGEXT_INLINE void prefetch_for_write(const void* p) { __builtin_prefetch(p, 1); }

// Keeps a loaded value in its register; otherwise GCC may load it again from memory for each use.
template <class V>
SEGEXT_INLINE void hold(V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  (void)v;
#endif
}

SEGEXT_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Lanes Stride * k + Phase, for all k, of the concatenation of Stride vectors.
template <int Stride, int Phase, class V, int... K>
SEGEXT_INLINE V deinterleave(const V* v, std::integer_sequence<int, K...>) {
  constexpr int n = sizeof...(K);
  if constexpr (Stride == 1) {
    return v[0];
  } else {
    const V two = __builtin_shufflevector(v[0], v[1], (Stride * K + Phase < 2 * n ? Stride * K + Phase : 0)...);
    if constexpr (Stride == 2) {
      return two;
    } else {
      return __builtin_shufflevector(two, v[2], (Stride * K + Phase < 2 * n ? K : Stride * K + Phase - n)...);
    }
  }
}

// Vector Part of the interleaving of Stride phases: the inverse of deinterleave.
template <int Stride, int Part, class V, int... K>
SEGEXT_INLINE V interleave(const V* phase, std::integer_sequence<int, K...>) {
  constexpr int n = sizeof...(K);
  constexpr int first = Part * n;
  if constexpr (Stride == 1) {
    return phase[0];
  } else {
    const V two = __builtin_shufflevector(
        phase[0], phase[1], ((first + K) % Stride < 2 ? (first + K) % Stride * n + (first + K) / Stride : 0)...);
    if constexpr (Stride == 2) {
      return two;
    } else {
      return __builtin_shufflevector(two, phase[2], ((first + K) % Stride < 2 ? K : n + (first + K) / Stride)...);
    }
  }
}

// Whether lanes can be picked by numbers that are known only at run time, in one instruction.
#if defined(__AVX512BW__)
inline constexpr bool kPicksLanes = true;
#else
inline constexpr bool kPicksLanes = false;
#endif

// The lanes of the concatenation of two vectors that `numbers` names, modulo their number. Requires kPicksLanes.
template <class T>
SEGEXT_INLINE Vec<T> pick_lanes(Vec<T> low, [[maybe_unused]] Vec<T> high, [[maybe_unused]] Vec<Int<T>> numbers) {
#if defined(__AVX512BW__)
  const __m512i a = reinterpret_cast<__m512i>(low), b = reinterpret_cast<__m512i>(high);
  const __m512i at = reinterpret_cast<__m512i>(numbers);
  if constexpr (sizeof(T) == 2) {
    return reinterpret_cast<Vec<T>>(_mm512_permutex2var_epi16(a, at, b));
  } else if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<T>>(_mm512_permutex2var_epi32(a, at, b));
  } else {
    return reinterpret_cast<Vec<T>>(_mm512_permutex2var_epi64(a, at, b));
  }
#else
  return low;
#endif
}

template <class T>
using LaneSequence = std::make_integer_sequence<int, kLanes<T>>;

// These convert codes from one byte each to lanes as wide as T, and back. Both touch kLanes<T> bytes. They use
// intrinsics where the compiler would convert in several steps.
template <class T>
SEGEXT_INLINE Vec<Int<T>> widen_codes(const uint8_t* codes) {
#if defined(__AVX512BW__)
  if constexpr (sizeof(T) == 2) {
    return reinterpret_cast<Vec<Int<T>>>(
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes))));
  } else if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<Int<T>>>(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
  } else if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vec<Int<T>>>(
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 2) {
    return reinterpret_cast<Vec<Int<T>>>(
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
  } else if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vec<Int<T>>>(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))));
  } else if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vec<Int<T>>>(_mm256_cvtepu8_epi64(_mm_loadu_si32(codes)));
  }
#endif
  Vec<uint8_t, kLanes<T>> bytes;
  std::memcpy(&bytes, codes, sizeof(bytes));
  return __builtin_convertvector(bytes, Vec<Int<T>>);
}

template <class T>
SEGEXT_INLINE void narrow_codes(uint8_t* codes, Vec<Int<T>> lanes) {
#if defined(__AVX512BW__)
  const __m512i v = reinterpret_cast<__m512i>(lanes);
  if constexpr (sizeof(T) == 2) {
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_cvtepi16_epi8(v));
  } else if constexpr (sizeof(T) == 4) {
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(v));
  } else if constexpr (sizeof(T) == 8) {
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi64_epi8(v));
  }
#elif defined(__AVX2__)
  const __m256i v = reinterpret_cast<__m256i>(lanes);
  if constexpr (sizeof(T) == 2) {
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(v, v), 0x08);
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm256_castsi256_si128(packed));
  } else if constexpr (sizeof(T) == 4) {
    const __m256i words = _mm256_packus_epi32(v, v), bytes = _mm256_packus_epi16(words, words);
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(codes),
                            _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
  }
#endif
  const auto bytes = __builtin_convertvector(lanes, Vec<uint8_t, kLanes<T>>);
  std::memcpy(codes, &bytes, sizeof(bytes));
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
