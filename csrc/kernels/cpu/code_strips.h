// Divides codes into units of work for changing their memory order.
#pragma once

#include "rows.h"

namespace segext {

// The codes of a sample as a matrix, channels by pixels or pixels by channels. Changing the memory order transposes
// `sources` rows of `targets` codes into `targets` rows of `sources` codes. A strip is some rows of the result: a
// multiple of 8, so that no two strips share a byte, and from 16 to 64, as many as the first- or second-level cache
// holds at one byte per code.
struct CodeStrips {
  int64_t sources, targets;
  int64_t rows;  // in a strip
  int64_t count;

  explicit SEGEXT_INLINE CodeStrips(const PoolGeometry& source) {
    const int64_t pixels = source.pooled_height * source.pooled_width;
    sources = source.channels_last ? pixels : source.channels;
    targets = source.channels_last ? source.channels : pixels;
    rows = clamp((int64_t{1} << 19) / sources / 16 * 16, 16, 64);
    count = ceil_div(targets, rows);
  }
};

}  // namespace segext
