// Division of a transposed convolution's result into units of work on the CPU.
#pragma once

#include "../dense_conv_transpose2d.h"
#include "rows.h"

namespace segext {

// Cells are the input pixels, and as many more as the output's edge needs: cell (u, v) gives the output pixels
// (u * stride_h + a - padding_h, v * stride_w + b - padding_w) of all phases (a, b). A band is some rows of cells; a
// group is some panels, which share what is prepared for a band. Neither depends on threads.
struct DenseBands {
  static constexpr int64_t kGroup = 4;
  static constexpr int64_t kPixels = 192;  // of a band, at least: to go through with one block's weights

  int64_t panels, groups;
  int64_t margin_h, margin_w;  // cells before the first that a tap reads
  int64_t cells_w;             // of a row
  int64_t columns;             // of a row, with its margin
  int64_t rows, count;         // of a band, and bands

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
