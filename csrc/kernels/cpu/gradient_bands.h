// Divides the work on the gradients of upsampling into units on the CPU.
#pragma once

#include "../depthwise_conv_transpose2d.h"
#include "rows.h"

namespace segext {

// A band is some input rows of one group of channels. It is both a unit of work and a part of the gradients of weights
// and bias; it does not depend on the number of threads. Bands are numbered by row within a group, by group within a
// sample, and by sample, so that a thread that processes consecutive bands reads the output rows between them only
// once.
struct GradientBands {
  // Approximate number of output elements per band: large enough that the band's part of the gradients is small in
  // comparison.
  static constexpr int64_t kElements = 65536;

  int64_t groups;       // groups in a sample
  int64_t rows, count;  // input rows in a band, and bands in a group
  int64_t elements;     // output elements per input row

  // A group is all channels or, without `all_channels`, the output channels of one input channel.
  SEGEXT_INLINE GradientBands(const Upsampling& g, bool all_channels)
      : groups(all_channels ? 1 : input_channels(g)),
        elements(smaller(g.stride_h, g.output_height) * g.output_width * (g.channels / groups)) {
    rows = clamp(kElements / larger(elements, 1), 1, g.height);
    count = ceil_div(g.height, rows);
  }
};

// Adjacent sums that a unit of sum_parts adds up together over all parts.
inline constexpr int64_t kSumsTogether = 64;

}  // namespace segext
