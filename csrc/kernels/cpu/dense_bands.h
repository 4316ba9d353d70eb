// Divides the result of a transposed convolution into units of work on the CPU.
#pragma once

#include "../dense_conv_transpose2d.h"
#include "rows.h"

namespace segext {

// Cells are the input pixels, plus as many more as the edge of the output needs: cell (u, v) produces the output pixels
// (u * stride_h + a - padding_h, v * stride_w + b - padding_w) of all phases (a, b). A band is some rows of cells; a
// group is some panels, which share what is prepared for a band. Neither depends on the number of threads.
struct DenseBands {
  static constexpr int64_t kGroup = 4;
  // A band of several rows has at most this many cells, the margins of its rows included. All cells of a band reuse one
  // block's weights.
  static constexpr int64_t kPixels = 192;

  int64_t panels, groups;
  int64_t margin_h, margin_w;  // cells before the first one that taps read
  int64_t cells_w;             // cells in a row
  int64_t columns;             // cells in a row, with its margin
  int64_t rows, count;         // rows of cells in a band, and number of bands

  explicit SEGEXT_INLINE DenseBands(const ConvTranspose& g)
      : panels(panels_of(g.outputs)),
        groups(ceil_div(panels, kGroup)),
        margin_h((g.kernel_h - 1) * g.dilation_h / g.stride_h),
        margin_w((g.kernel_w - 1) * g.dilation_w / g.stride_w),
        cells_w(ceil_div(g.output_width + g.padding_w, g.stride_w)),
        columns(cells_w + margin_w) {
    const int64_t cells_h = ceil_div(g.output_height + g.padding_h, g.stride_h);
    rows = clamp(kPixels / columns, 1, cells_h);
    count = ceil_div(cells_h, rows);
  }
};

}  // namespace segext
