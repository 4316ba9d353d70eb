// What the kernels of fused unpooling and 3x3 convolution share: the maps, and the division of the result among blocks.
#pragma once

#include <cstdint>

#include "../unpool_conv2d.h"
#include "divisor.cuh"
#include "element.cuh"
#include "launch.cuh"
#include "weight_panels.cuh"

namespace segext {

template <typename T>
struct UnpoolConvArrays {
  const T* __restrict__ input;
  const uint8_t* __restrict__ codes;
  const T* __restrict__ bias;  // or null
  T* __restrict__ output;

  // Zero if there is no bias, and for outputs past the last.
  __device__ __forceinline__ WideOf<T> bias_of(int64_t number, int64_t outputs) const {
    return bias != nullptr && number < outputs ? Element<T>::widen(bias[number]) : 0;
  }
};

// The strides of a map, in elements.
struct MapSteps {
  int64_t sample, channel, row, column;

  MapSteps(int64_t channels, int64_t height, int64_t width, bool channels_last)
      : sample(channels * height * width),
        channel(channels_last ? 1 : height * width),
        row(channels_last ? width * channels : width),
        column(channels_last ? channels : 1) {}

  __device__ __forceinline__ int64_t element(int64_t at_channel, int64_t at_row, int64_t at_column) const {
    return at_channel * channel + at_row * row + at_column * column;
  }
};

// Everything is 64-bit. That costs little, because a thread uses it only before and after its loops. The result may
// have another memory order than the pooled map.
struct UnpoolConvShape {
  MapSteps pooled, output;
  int64_t channels, outputs, sample_bytes;
  int64_t pooled_height, pooled_width;
  int64_t height, width;  // of the unpooled map
  int64_t padding_h, padding_w;
  int64_t output_height, output_width;
  bool channels_last;  // of the result

  UnpoolConvShape(const UnpoolConv& g, bool channels_last)
      : pooled(g.pool.channels, g.pool.pooled_height, g.pool.pooled_width, g.pool.channels_last),
        output(g.outputs, g.output_height, g.output_width, channels_last),
        channels(g.pool.channels),
        outputs(g.outputs),
        sample_bytes(g.pool.sample_bytes),
        pooled_height(g.pool.pooled_height),
        pooled_width(g.pool.pooled_width),
        height(g.pool.height),
        width(g.pool.width),
        padding_h(g.padding_h),
        padding_w(g.padding_w),
        output_height(g.output_height),
        output_width(g.output_width),
        channels_last(channels_last) {}

  __device__ __forceinline__ bool has_cell(int64_t row, int64_t column) const {
    return row >= 0 && row < pooled_height && column >= 0 && column < pooled_width;
  }
};

// A block computes one tile of one sample's result for one group of outputs. Groups are innermost, so that blocks that
// read the same cells run at about the same time.
struct BlockTiles {
  Divisor<int32_t> by_groups, by_columns, by_rows;

  struct Place {
    int32_t sample, row, column, group;
  };

  __device__ __forceinline__ Place place() const {
    Place at;
    const int32_t tile = by_groups.divide(static_cast<int32_t>(blockIdx.x), &at.group);
    at.sample = by_rows.divide(by_columns.divide(tile, &at.column), &at.row);
    return at;
  }
};

}  // namespace segext
