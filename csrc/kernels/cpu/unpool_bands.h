// Division of the result of unpooling and convolution into units of work on the CPU.
#pragma once

#include "../unpool_conv2d.h"
#include "rows.h"

namespace segext {

// A band is some rows of cells and the two output rows that start with each of them; a group is some panels, which
// share what is prepared for a band. Neither depends on threads, and so no sum's order does.
struct UnpoolBands {
  static constexpr int64_t kGroup = 4;
  static constexpr int64_t kCells = 128;     // of a band, to go through with one block's weights
  static constexpr int64_t kFewestRows = 3;  // of cells in a band: each band costs one more, begun or carried over

  int64_t panels, groups;
  int64_t rows;  // of cells in a band
  int64_t count;

  explicit SEGEXT_INLINE UnpoolBands(const UnpoolConv& g)
      : panels(panels_of(g.outputs)), groups(ceil_div(panels, kGroup)) {
    const int64_t all = larger(ceil_div(g.output_height + g.padding_h, 2), 1);
    rows = clamp(kCells / g.pool.pooled_width, smaller(kFewestRows, all), all);
    count = ceil_div(all, rows);
  }
};

}  // namespace segext
