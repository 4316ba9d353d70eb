// What the cases of unpooling followed by a convolution have in common, forward and backward.
#pragma once

#include <string>
#include <vector>

#include "tester.h"

namespace kernel_cases {

// One unpooling and convolution; the padding is that of a transposed convolution.
struct UnpoolShape {
  int64_t samples, channels, outputs, pooled[2], size[2], padding[2];
};

std::vector<UnpoolShape> unpool_shapes();
UnpoolConv geometry_of(const UnpoolShape& shape, bool channels_last);

inline std::string describe(const UnpoolConv& g, ElementType type) {
  char sizes[96];
  std::snprintf(sizes, sizeof(sizes), "%ld outputs of (%ld, %ld), padding %ld,%ld: ", g.outputs, g.output_height,
                g.output_width, g.padding_h, g.padding_w);
  return sizes + shapes::describe(g.pool, type);
}

// A view of a weight of order [outputs, channels, 9] or, strided, [9, channels, outputs].
template <typename Data>
StridedWeight<Data> weight_view(uint8_t* weight, const UnpoolConv& g, int element_bytes, bool mirrored, bool strided) {
  const int64_t channels = g.pool.channels;
  StridedWeight<Data> view{weight, 9, 9 * channels, 3, 1};
  if (strided) view = {weight, g.outputs, 1, 3 * channels * g.outputs, channels * g.outputs};
  if (!mirrored) return view;
  const int64_t last = 2 * view.row_stride + 2 * view.column_stride;
  return {weight + last * element_bytes, view.channel_stride, view.output_stride, -view.row_stride,
          -view.column_stride};
}

}  // namespace kernel_cases
