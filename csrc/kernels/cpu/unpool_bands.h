// Divides the result of unpooling and convolution into units of work on the CPU.
#pragma once

#include "../unpool_conv2d.h"
#include "rows.h"

namespace segext {

// A band is some rows of cells and, for each of them, the first two output rows that it contributes to. A group is some
// panels, which share what is prepared for a band. Neither depends on the number of threads, so neither does the order
// of any sum.
struct UnpoolBands {
  static constexpr int64_t kGroup = 4;
  static constexpr int64_t kCells = 128;  // cells in a band, about: all of them reuse one block's weights
  // Fewest rows of cells in a band: each band costs one row more, which is computed again at its start or carried over.
  static constexpr int64_t kFewestRows = 3;

  int64_t panels, groups;
  int64_t rows;  // rows of cells in a band
  int64_t count;

  explicit SEGEXT_INLINE UnpoolBands(const UnpoolConv& g)
      : panels(panels_of(g.outputs)), groups(ceil_div(panels, kGroup)) {
    const int64_t all = larger(ceil_div(g.output_height + g.padding_h, 2), 1);
    rows = clamp(kCells / g.pool.pooled_width, smaller(kFewestRows, all), all);
    count = ceil_div(all, rows);
  }
};

}  // namespace segext
