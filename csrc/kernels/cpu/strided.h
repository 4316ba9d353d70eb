// Reads a window row for a vector of pooled NCHW columns: the pixels, `stride` apart, are loaded as whole vectors and
// deinterleaved.
#pragma once

#include <type_traits>

#include "rows.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// True where the deinterleaving kernels apply: codes fit in a byte, and the stride is 1, with any dilation, or it is 2
// or 3 and window rows have at least `stride` taps, in adjacent pixels.
SEGEXT_INLINE bool has_strided_path(const PoolGeometry& g) {
  const Window& w = g.window;
  return g.bits <= 8 && (w.stride_w == 1 || (w.stride_w <= 3 && w.dilation_w == 1 && w.kernel_w >= w.stride_w));
}

// Calls `f` with the stride as a compile-time constant.
template <class F>
SEGEXT_INLINE void with_stride(int64_t stride, F&& f) {
  switch (stride) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    default:
      return f(std::integral_constant<int, 3>{});
  }
}

// Stands for any window other than the square, undilated ones whose size is a compile-time constant and whose loops are
// unrolled.
inline constexpr int kAnyKernel = 0;

// Calls f(stride, kernel) with compile-time constants for the windows that networks use. `kernel` is kAnyKernel for all
// other windows, and where not all rows of the window are `inside` the map.
template <class F>
SEGEXT_INLINE void with_strided_window(const Window& w, Range inside, F&& f) {
  const bool square = w.kernel_h == w.kernel_w && w.stride_h == w.stride_w && w.dilation_h == 1 && w.dilation_w == 1;
  const int64_t kernel = square && inside.end - inside.begin == w.kernel_h ? w.kernel_h : kAnyKernel;
  if (w.stride_w == 2 && kernel == 2) return f(std::integral_constant<int, 2>{}, std::integral_constant<int, 2>{});
  if (w.stride_w == 2 && kernel == 3) return f(std::integral_constant<int, 2>{}, std::integral_constant<int, 3>{});
  if (w.stride_w == 3 && kernel == 3) return f(std::integral_constant<int, 3>{}, std::integral_constant<int, 3>{});
  with_stride(w.stride_w, [&](auto stride) { f(stride, std::integral_constant<int, kAnyKernel>{}); });
}

// A vector of neighbouring pooled columns: AllLanes uses all of them, FirstLanes the first `count`.
struct AllLanes {
  template <class T>
  static SEGEXT_INLINE Vec<T> load_lanes(const T* p, int, int) {
    return load(p);
  }
  template <class T>
  static SEGEXT_INLINE void store_lanes(T* p, Vec<T> v, int, int) {
    store(p, v);
  }
};

struct FirstLanes {
  int64_t count;

  // Loads vector `part` of the `stride` vectors that the pixels of these columns fill.
  template <class T>
  SEGEXT_INLINE Vec<T> load_lanes(const T* p, int part, int stride) const {
    return load_partial(p, left<T>(part, stride));
  }
  template <class T>
  SEGEXT_INLINE void store_lanes(T* p, Vec<T> v, int part, int stride) const {
    store_partial(p, v, left<T>(part, stride));
  }

 private:
  template <class T>
  SEGEXT_INLINE int64_t left(int part, int stride) const {
    return clamp(stride * count - part * kLanes<T>, 0, kLanes<T>);
  }
};

// The full columns of a block, of which only the first `pixels` are in the map.
struct FirstPixels {
  int64_t pixels;

  template <class T>
  SEGEXT_INLINE void store_lanes(T* p, Vec<T> v, int part, int) const {
    store_partial(p, v, clamp(pixels - part * kLanes<T>, 0, kLanes<T>));
  }
};

// Calls block(column, lanes) for the columns of `range`, a vector at a time. The remainder is handled outside the loop;
// inside, it would take registers.
template <class T, class F>
SEGEXT_INLINE void for_each_block(Range range, F&& block) {
  int64_t j = range.begin;
  for (; j + kLanes<T> <= range.end; j += kLanes<T>) block(j, AllLanes{});
  if (j < range.end) [[unlikely]] {
    block(j, FirstLanes{range.end - j});
  }
}

// The same for a `block` that may be given columns twice: if the range has a whole vector, its last one overlaps the
// one before it, which costs less than a part of a vector. `block` must not read what any block writes.
template <class T, class F>
SEGEXT_INLINE void cover_with_blocks(Range range, F&& block) {
  int64_t j = range.begin;
  for (; j + kLanes<T> <= range.end; j += kLanes<T>) block(j, AllLanes{});
  if (j >= range.end) return;
  if (j > range.begin) {
    block(range.end - kLanes<T>, AllLanes{});
  } else {
    block(j, FirstLanes{range.end - j});
  }
}

// Stores the Stride phases of a block of pooled columns, interleaved.
template <int Stride, class T, class Lanes>
SEGEXT_INLINE void store_interleaved(Lanes lanes, const Vec<T>* phase, T* out) {
  [&]<int... Q>(std::integer_sequence<int, Q...>) SEGEXT_LAMBDA_INLINE {
    (..., lanes.store_lanes(out + Q * kLanes<T>, interleave<Stride, Q>(phase, LaneSequence<T>{}), Q, Stride));
  }(std::make_integer_sequence<int, Stride>{});
}

// Prefetch distance in elements.
template <class T>
inline constexpr int64_t kAhead = 4096 / static_cast<int64_t>(sizeof(T));

// Prefetches the memory that the windows of a block of columns will need a little later. A pooled row reads its `rows`
// full rows side by side, a zigzag through what is one contiguous run of memory. Hardware prefetchers do not follow the
// zigzag, so this prefetches along the run. Measured on a map that is not in cache: 1.7 times the speed.
template <int Stride, int Kernel, class T>
SEGEXT_INLINE void prefetch_run(const T* row, const Window& w, int64_t column) {
  const int64_t rows = Kernel ? smaller(Stride, Kernel) : smaller(w.stride_h, w.kernel_h);
  const T* ahead = row + column * Stride * rows + kAhead<T>;
#pragma GCC unroll 4
  for (int64_t k = 0; k < Stride * rows; ++k) __builtin_prefetch(ahead + k * kLanes<T>);
}

// True for 2x2 windows side by side over channels_last pixels so long that hardware prefetchers do not follow these
// either: a window jumps between two pixels in each of two rows. They do follow shorter pixels.
template <class T>
SEGEXT_INLINE bool has_long_pixels(const PoolGeometry& g) {
  const Window& w = g.window;
  return g.channels_last && g.channels * static_cast<int64_t>(sizeof(T)) >= 512 && w.kernel_h == 2 && w.kernel_w == 2 &&
         w.stride_w == 2 && w.dilation_w == 1;
}

// Prefetches what later windows will read, in memory order: the step for the vector of channels from `c` on prefetches
// two vectors in each of the two rows. Measured on an EPYC, on a map that is not in cache: 1.2 to 1.6 times the speed.
template <class T>
SEGEXT_INLINE void prefetch_pixels(const T* corner, int64_t row, int64_t c) {
  for (const T* ahead : {corner + kAhead<T> + 2 * c, corner + row + kAhead<T> + 2 * c}) {
    __builtin_prefetch(ahead);
    __builtin_prefetch(ahead + kLanes<T>);
  }
}

// Calls tap(t, pixels) for the taps of one window row in ascending order; `first` is the first tap of the first column.
// Loads Stride taps at once; where Stride does not divide the kernel, the last load starts earlier rather than reach
// past the last tap, so no memory outside the windows is touched.
template <int Stride, int Kernel, class T, class Lanes, class F>
SEGEXT_INLINE void for_each_tap(const T* first, const Window& w, Lanes lanes, F&& tap) {
  const int64_t kernel = Kernel ? Kernel : w.kernel_w, dilation = Kernel ? 1 : w.dilation_w;
#pragma GCC unroll 3
  for (int64_t t = 0; t < kernel; t += Stride) {
    const int64_t from = t + Stride <= kernel ? t : kernel - Stride;
    Vec<T> pixels[Stride];
#pragma GCC unroll 3
    for (int q = 0; q < Stride; ++q) {
      pixels[q] = lanes.load_lanes(first + from * dilation + q * kLanes<T>, q, Stride);
    }
    [&]<int... P>(std::integer_sequence<int, P...>) SEGEXT_LAMBDA_INLINE {
      (..., (from + P >= t ? tap(from + P, deinterleave<Stride, P>(pixels, LaneSequence<T>{})) : void()));
    }(std::make_integer_sequence<int, Stride>{});
  }
}

// Calls f(kernel, column, corner, rows, columns) for each pixel of a channels_last pooled row. `rows` and `columns` are
// the taps inside the map, and `corner` is the address of the first of them. `kernel` is a compile-time constant, 2 or
// 3, where a square window of that size lies wholly inside the map; otherwise kAnyKernel.
template <class T, class F>
SEGEXT_INLINE void for_each_pixel(const PoolGeometry& g, const T* map, int64_t top, Range inside, F&& f) {
  const Window& w = g.window;
  const int64_t depth = g.channels, row = g.width * depth;
  const int64_t small = w.kernel_h == w.kernel_w && inside.end - inside.begin == w.kernel_h ? w.kernel_h : kAnyKernel;
  for (int64_t j = 0; j < g.pooled_width; ++j) {
    const int64_t left = j * w.stride_w - w.padding_w;
    const Range across = taps_inside(left, w.kernel_w, w.dilation_w, g.width);
    const Range rows = across.empty() ? Range{0, 0} : inside;
    const T* corner = map + (top + rows.begin * w.dilation_h) * row + (left + across.begin * w.dilation_w) * depth;
    const bool whole = across.end - across.begin == w.kernel_w;
    if (whole && small == 2) {
      f(std::integral_constant<int, 2>{}, j, corner, rows, across);
    } else if (whole && small == 3) {
      f(std::integral_constant<int, 3>{}, j, corner, rows, across);
    } else {
      f(std::integral_constant<int, kAnyKernel>{}, j, corner, rows, across);
    }
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
