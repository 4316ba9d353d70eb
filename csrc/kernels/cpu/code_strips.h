// Division of codes into units of work when their memory order is changed.
#pragma once

#include "rows.h"

namespace segext {

// Codes of a sample as a matrix of channels and pixels, or of pixels and channels: `sources` rows of `targets`, and
// after it `targets` rows of `sources`. A strip is some rows of the result: a multiple of 8, so that none share a byte,
// and as many as a first- or second-level cache holds at a byte a code.
struct CodeStrips {
  int64_t sources, targets;
  int64_t rows;  // of a strip
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
