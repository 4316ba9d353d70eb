// How the work on gradients of an upsampling divides on the CPU.
#pragma once

#include "../depthwise_conv_transpose2d.h"
#include "rows.h"

namespace segext {

// A band is some rows of input, of one group of channels: unit of work, and part of the gradients of weights and bias.
// Neither depends on threads. Bands follow each other by row, group and sample, so that those of a thread share the
// rows of output between them.
struct GradientBands {
  static constexpr int64_t kElements = 65536;  // of the output that a band has about, so that its part is small beside

  int64_t groups;       // of a sample
  int64_t rows, count;  // of a band, and bands of a group
  int64_t elements;     // of output to a row of input

  // A group has all channels, or the output channels of one input channel.
  SEGEXT_INLINE GradientBands(const Upsampling& g, bool all_channels)
      : groups(all_channels ? 1 : g.channels / g.multiplier),
        elements(smaller(g.stride_h, g.output_height) * g.output_width * (g.channels / groups)) {
    rows = clamp(kElements / larger(elements, 1), 1, g.height);
    count = ceil_div(g.height, rows);
  }
};

// Neighbouring sums that parts are added up for together: what the units of sum_parts are.
inline constexpr int64_t kSumsTogether = 64;

}  // namespace segext
