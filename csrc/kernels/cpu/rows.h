// Rows: the runs of memory that CPU kernels process, and the arithmetic between rows and columns of the two maps.
//
// A row of a map is one line of one plane (NCHW) or one line of a sample with all its channels (channels_last); in both
// formats the rows of a map are consecutive in memory. A row has `columns` pixels of `depth` neighbouring elements.
#pragma once

#include "../switches.h"

namespace segext {

struct Rows {
  int64_t planes;      // of one sample: each has pooled_height pooled rows and height full rows
  int64_t depth;       // elements of a pixel
  int64_t row;         // elements of a full row
  int64_t pooled_row;  // elements of a pooled row

  explicit SEGEXT_INLINE Rows(const PoolGeometry& g)
      : planes(g.channels_last ? 1 : g.channels),
        depth(g.channels_last ? g.channels : 1),
        row(g.width * depth),
        pooled_row(g.pooled_width * depth) {}
};

// The number of pooled rows that together fill whole bytes of codes. Threads that divide a sample into groups of so
// many rows share no byte.
SEGEXT_INLINE int64_t rows_per_code_byte(const PoolGeometry& g) {
  int64_t rows = 1;
  while (rows < 8 && rows * (Rows(g).pooled_row % 8) * g.bits % 8 != 0) rows *= 2;
  return rows;
}

// Half-open range.
struct Range {
  int64_t begin, end;
  SEGEXT_INLINE bool empty() const { return begin >= end; }
};

// Equals a / b for all arguments. Needs no division instruction where b is 1 or 2, as most strides and dilations are.
SEGEXT_INLINE int64_t quick_div(int64_t a, int64_t b) { return b == 1 ? a : b == 2 && a >= 0 ? a >> 1 : a / b; }

SEGEXT_INLINE int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? quick_div(a + b - 1, b) : -quick_div(-a, b); }

// The least multiple of `a` that a power of two divides.
SEGEXT_INLINE int64_t common_multiple(int64_t a, int64_t power) {
  while (a % power != 0) a *= 2;
  return a;
}

SEGEXT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
SEGEXT_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

SEGEXT_INLINE int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

// The taps that fall on the map's `size` pixels, of a window that starts at pixel `start` (negative in the padding).
SEGEXT_INLINE Range taps_inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  return {start >= 0 ? 0 : clamp(ceil_div(-start, dilation), 0, kernel),
          start >= size ? 0 : clamp(ceil_div(size - start, dilation), 0, kernel)};
}

// Pooled columns whose windows have all their columns inside the map; those on either side touch padding.
SEGEXT_INLINE Range interior_columns(const PoolGeometry& g) {
  const Window& w = g.window;
  const int64_t last_start = g.width - 1 - (w.kernel_w - 1) * w.dilation_w + w.padding_w;
  const int64_t begin = clamp(ceil_div(w.padding_w, w.stride_w), 0, g.pooled_width);
  const int64_t end = last_start < 0 ? 0 : clamp(last_start / w.stride_w + 1, 0, g.pooled_width);
  return {begin, end < begin ? begin : end};
}

}  // namespace segext
