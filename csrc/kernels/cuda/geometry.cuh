// A PoolGeometry in the form that kernels use: with precomputed divisors, and with 32-bit arithmetic wherever a sample
// is small enough.
//
// Coordinates and offsets within a sample are of type Index; only a sample's offset in its tensor is always 64-bit.
// Index is int32_t unless a sample of either map, or the reach of a window, is too large for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "../switches.h"
#include "codes.cuh"
#include "divisor.cuh"
#include "element.cuh"
#include "runtime.cuh"

namespace segext {

// The coordinates of an element in one sample of a map.
template <typename Index>
struct Place {
  Index channel, row, column;
};

// The memory order of one sample of a map. Converts the number of an element in memory to its place, and back.
template <typename Index>
struct Order {
  Divisor<Index> inner, middle;  // the two innermost extents. NCHW: width, height; channels_last: channels, width
  Index channel_stride, row_stride, column_stride;
  Index elements;
  bool channels_last;

  Order(int64_t channels, int64_t height, int64_t width, bool channels_last)
      : inner(channels_last ? channels : width),
        middle(channels_last ? width : height),
        channel_stride(static_cast<Index>(channels_last ? 1 : height * width)),
        row_stride(static_cast<Index>(channels_last ? width * channels : width)),
        column_stride(static_cast<Index>(channels_last ? channels : 1)),
        elements(static_cast<Index>(channels * height * width)),
        channels_last(channels_last) {}

  __device__ __forceinline__ Place<Index> place(Index element) const {
    Index in_inner, in_middle;
    const Index outer = middle.divide(inner.divide(element, &in_inner), &in_middle);
    return channels_last ? Place<Index>{in_inner, outer, in_middle} : Place<Index>{outer, in_middle, in_inner};
  }

  __device__ __forceinline__ Index element(const Place<Index>& place) const {
    return place.channel * channel_stride + place.row * row_stride + place.column * column_stride;
  }
};

// One axis of a map and of the windows on it: which pixels belong to a window, and which windows contain a pixel. The
// first tap of window w lies on pixel w * stride - origin. In a pool, the origin is the padding. In upsampling, a
// window is a pixel of the input, and lies on pixels of the output.
template <typename Index>
struct Axis {
  Index pixels, windows;  // how many there are
  Index kernel, stride, origin, dilation;
  Divisor<Index> by_stride, by_dilation, by_windows;

  Axis(int64_t pixels, int64_t windows, int64_t kernel, int64_t stride, int64_t origin, int64_t dilation)
      : pixels(static_cast<Index>(pixels)),
        windows(static_cast<Index>(windows)),
        kernel(static_cast<Index>(kernel)),
        stride(static_cast<Index>(stride)),
        origin(static_cast<Index>(origin)),
        dilation(static_cast<Index>(dilation)),
        by_stride(stride),
        by_dilation(dilation),
        by_windows(windows) {}

  __device__ __forceinline__ Index pixel(Index window, Index tap) const {
    return window * stride - origin + tap * dilation;
  }

  __device__ __forceinline__ bool contains(Index pixel) const {
    using Unsigned = typename std::make_unsigned<Index>::type;
    return static_cast<Unsigned>(pixel) < static_cast<Unsigned>(pixels);
  }

  // The first tap of `window` that does not lie before the start of the map. If has_tap is false for it, because it
  // lies past the end of the map or is not a tap of the kernel, the window has no tap inside the map.
  __device__ __forceinline__ Index first_tap(Index window) const {
    const Index before = origin - window * stride;
    return before <= 0 ? 0 : by_dilation.quotient(before + dilation - 1);
  }

  __device__ __forceinline__ bool has_tap(Index window, Index tap) const {
    return tap < kernel && pixel(window, tap) < pixels;
  }

  // Only the windows first_window..last_window can contain `pixel`; there are none if last < first.
  __device__ __forceinline__ Index first_window(Index pixel) const {
    const Index beyond = pixel + origin - (kernel - 1) * dilation;
    return beyond <= 0 ? 0 : by_stride.quotient(beyond + stride - 1);
  }

  __device__ __forceinline__ Index last_window(Index pixel) const {
    const Index last = by_stride.quotient(pixel + origin);
    return last < windows ? last : windows - 1;
  }

  // The tap of `window` that lies on `pixel`, or -1 if dilation skips the pixel. `window` must be one of
  // first_window..last_window.
  __device__ __forceinline__ Index tap(Index window, Index pixel) const {
    return tap_at(pixel + origin - window * stride);
  }

  // The tap at `distance` pixels from a window's first tap, or -1 if there is none.
  __device__ __forceinline__ Index tap_at(Index distance) const {
    Index gap;
    const Index tap = by_dilation.divide(distance, &gap);
    return gap == 0 && tap < kernel ? tap : -1;
  }
};

template <typename Index>
struct PoolShape {
  Axis<Index> rows, columns;
  Order<Index> map, pooled;
  Divisor<Index> by_kernel_w, by_width;
  int bits;
  int64_t sample_bytes;

  explicit PoolShape(const PoolGeometry& g)
      : rows(g.height, g.pooled_height, g.window.kernel_h, g.window.stride_h, g.window.padding_h, g.window.dilation_h),
        columns(g.width, g.pooled_width, g.window.kernel_w, g.window.stride_w, g.window.padding_w, g.window.dilation_w),
        map(g.channels, g.height, g.width, g.channels_last),
        pooled(g.channels, g.pooled_height, g.pooled_width, g.channels_last),
        by_kernel_w(g.window.kernel_w),
        by_width(g.width),
        bits(g.bits),
        sample_bytes(g.sample_bytes) {}

  // switch_pixel (switches.h) on the device: finds the pixel that `code` names in `window`, given by its place in the
  // pooled map. Returns false if there is none: `code` names no tap, or the tap lies outside the map.
  __device__ __forceinline__ bool names_pixel(const Place<Index>& window, uint32_t code, Index* row,
                                              Index* column) const {
    const Index number = static_cast<Index>(code);
    if (number < 0) return false;  // the code is too large for a 32-bit Index
    Index j;
    const Index i = by_kernel_w.divide(number, &j);
    if (i >= rows.kernel) return false;
    *row = rows.pixel(window.row, i);
    *column = columns.pixel(window.column, j);
    return rows.contains(*row) && columns.contains(*column);
  }

  // The inverse of names_pixel: finds the code of the tap that lies on pixel `index` = row * width + column of the map.
  // Returns false if no tap does.
  __device__ __forceinline__ bool tap_on_pixel(const Place<Index>& window, int64_t index, uint32_t* code) const {
    if (index < 0 || index >= static_cast<int64_t>(rows.pixels) * columns.pixels) return false;
    Index column;
    const Index row = by_width.divide(static_cast<Index>(index), &column);
    const Index from_row = row - rows.pixel(window.row, 0);
    const Index from_column = column - columns.pixel(window.column, 0);
    if (from_row < 0 || from_column < 0) return false;
    Index row_gap, column_gap;
    const Index i = rows.by_dilation.divide(from_row, &row_gap);
    const Index j = columns.by_dilation.divide(from_column, &column_gap);
    if (row_gap != 0 || column_gap != 0 || i >= rows.kernel || j >= columns.kernel) return false;
    *code = static_cast<uint32_t>(i * columns.kernel + j);
    return true;
  }
};

// For 2x2 tiles: the row of the full map that is the upper row of the tiles of `pooled_row`. Both rows are counted
// across all planes (NCHW) or all samples (channels_last).
__device__ __forceinline__ int64_t tile_top_row(const PoolShape<int32_t>& shape, int32_t pooled_row) {
  const int32_t plane = shape.rows.by_windows.quotient(pooled_row);
  return 2 * static_cast<int64_t>(pooled_row) +
         static_cast<int64_t>(plane) * (shape.rows.pixels - 2 * shape.rows.windows);
}

inline int64_t map_elements(const PoolGeometry& g) { return g.channels * g.height * g.width; }

// Whether int32_t can hold every number that a kernel computes within a sample, and the number of warps that cover
// either map.
inline bool fits_int32(const PoolGeometry& g) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  const Window& w = g.window;
  for (const int64_t number : {g.height, g.width, g.pooled_height, g.pooled_width, w.kernel_h, w.kernel_w, w.stride_h,
                               w.stride_w, w.padding_h, w.padding_w, w.dilation_h, w.dilation_w}) {
    if (number >= kLimit) return false;
  }
  const auto axis_fits = [](int64_t size, int64_t pooled, int64_t kernel, int64_t stride, int64_t padding,
                            int64_t dilation) {
    return pooled * stride < kLimit && kernel * dilation < kLimit && size + padding + stride < kLimit;
  };
  return map_elements(g) < kLimit && pooled_elements(g) < kLimit && g.samples < kLimit &&
         g.samples * warps_per_sample(map_elements(g)) < kLimit &&
         g.samples * warps_per_sample(pooled_elements(g)) < kLimit &&
         axis_fits(g.height, g.pooled_height, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h) &&
         axis_fits(g.width, g.pooled_width, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w);
}

// Calls `function` with the TypeTag of the index type that fits `g`.
template <typename Function>
CudaStatus for_index(const PoolGeometry& g, const Function& function) {
  return fits_int32(g) ? function(TypeTag<int32_t>{}) : function(TypeTag<int64_t>{});
}

// The kinds of windows for which kernels are specialised at compile time.
enum class Windows : uint8_t {
  kTiles,  // 2x2 tiles, each wholly inside the map
  k2x2,    // 2x2 of any stride, padding and dilation
  k3x3,    // 3x3, likewise
  kAny,
};

template <Windows kWindows>
using WindowsTag = std::integral_constant<Windows, kWindows>;

// Calls `function` with the WindowsTag of `windows`.
template <typename Function>
CudaStatus for_windows(Windows windows, const Function& function) {
  switch (windows) {
    case Windows::kTiles:
      return function(WindowsTag<Windows::kTiles>{});
    case Windows::k2x2:
      return function(WindowsTag<Windows::k2x2>{});
    case Windows::k3x3:
      return function(WindowsTag<Windows::k3x3>{});
    case Windows::kAny:
      return function(WindowsTag<Windows::kAny>{});
  }
  return cudaErrorInvalidValue;
}

// k if the windows are k x k, or 0 if their size is known only at run time.
template <Windows kWindows>
inline constexpr int kSquareKernel = kWindows == Windows::kAny   ? 0
                                     : kWindows == Windows::k3x3 ? 3
                                                                 : 2;

// Whether the windows are 2x2 tiles that start at the map's first pixel. If pooled sizes were rounded up, the last
// tiles may extend past the edge of the map.
inline bool windows_are_2x2_tiles(const PoolGeometry& g) {
  const Window& w = g.window;
  return w.kernel_h == 2 && w.kernel_w == 2 && w.stride_h == 2 && w.stride_w == 2 && w.padding_h == 0 &&
         w.padding_w == 0 && w.dilation_h == 1 && w.dilation_w == 1 && g.bits == code_bits(4);
}

// Whether the windows are 3x3 with stride 2 and no dilation, so that neighbouring windows share one row or column, and
// the first window starts at the map's first pixel or one pixel before it.
inline bool windows_are_3x3_overlaps(const PoolGeometry& g) {
  const Window& w = g.window;
  return w.kernel_h == 3 && w.kernel_w == 3 && w.stride_h == 2 && w.stride_w == 2 && w.padding_h <= 1 &&
         w.padding_w <= 1 && w.dilation_h == 1 && w.dilation_w == 1 && g.bits == code_bits(9);
}

// Whether int32_t can hold the distance between the taps of a small window in the memory of a map that fits_int32, even
// if so few of them lie inside the map that others lie far outside.
inline bool taps_fit_int32(const PoolGeometry& g) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  const Window& w = g.window;
  const int64_t column_step = g.channels_last ? g.channels : 1, row_step = std::max(column_step * g.width, int64_t{1});
  return (w.kernel_h - 1) * w.dilation_h < kLimit / row_step && (w.kernel_w - 1) * w.dilation_w < kLimit / column_step;
}

inline Windows windows_of(const PoolGeometry& g) {
  const Window& w = g.window;
  if (w.kernel_h != w.kernel_w || g.bits != code_bits(w.kernel_h * w.kernel_w)) return Windows::kAny;
  if (w.kernel_h > 3 || w.kernel_h < 2 || !taps_fit_int32(g)) return Windows::kAny;
  if (w.kernel_h == 3) return Windows::k3x3;
  const bool tiles = windows_are_2x2_tiles(g) && 2 * g.pooled_height <= g.height && 2 * g.pooled_width <= g.width;
  return tiles ? Windows::kTiles : Windows::k2x2;
}

}  // namespace segext
