// The weights of a block that upsamples by cells (depthwise_conv_transpose2d_cells.cuh), in shared memory.
#pragma once

#include "strip_copier.cuh"

namespace segext {

// The weights of a block in shared memory: [phases, kWeights, chunk_runs * kLanes], with zero where there is no tap.
template <typename T, int kLanes>
class CellWeights {
  using Wide = WideOf<T>;
  static constexpr int kWeights = CellDivision::kWeights, kBatch = CellDivision::kBatch;

 public:
  // They are staged after a barrier.
  //
  // Neighbouring columns of one channel have neighbouring weights, but in channels_last they are a pixel apart in the
  // output, and neighbouring channels have weights a whole kernel apart. A warp that staged neighbouring elements would
  // read as many sectors as it has lanes; its tile of columns and channels takes few sectors and uses all of them.
  __device__ __forceinline__ static void stage(const T* weight, const UpsamplingShape<int32_t>& shape,
                                               const CellDivision& division, const CellBlock& block, Wide* staged) {
    const int32_t elements = division.chunk_runs * kLanes;
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / Launch::kWarpThreads;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % Launch::kWarpThreads;
    const int32_t lane_column = lane & ((1 << division.column_bits) - 1), lane_channel = lane >> division.column_bits;
    const int32_t batches = division.by_batches.divisor();
    for (int32_t item = warp; item < division.weight_tiles * batches;
         item += static_cast<int32_t>(blockDim.x) / Launch::kWarpThreads) {
      int32_t batch, channel_tile;
      const int32_t tile = division.by_batches.divide(item, &batch);
      const int32_t column_tile = division.by_channel_tiles.divide(tile, &channel_tile);
      const int32_t in_pixel = channel_tile * (Launch::kWarpThreads >> division.column_bits) + lane_channel;
      const int32_t e = ((column_tile << division.column_bits) + lane_column) * division.slice + in_pixel;
      if (in_pixel >= division.slice || e >= elements) continue;
      int32_t channel, column_phase;
      const int32_t x = division.by_slice.divide(block.chunk * elements + e, &channel);
      shape.columns.by_stride.divide(x + shape.columns.origin, &column_phase);
      const T* kernel = weight + (block.first_channel + channel) * (shape.rows.kernel * shape.columns.kernel);
      const int32_t first = batch * kBatch;
      Wide* to = staged + kWeights * first * elements + e;
      if (first + kBatch <= block.phases && shape.rows.dilation == 1) {
        stage_batch<kBatch>(kernel, shape, column_phase, block.phase + first, to, elements);
      } else {
        for (int32_t k = first; k < block.phases && k < first + kBatch; ++k, to += kWeights * elements) {
          stage_batch<1>(kernel, shape, column_phase, block.phase + k, to, elements);
        }
      }
    }
  }

 private:
  // Stages the weights of kCount phases of one element, from `phase` on; of several only if the rows of the kernel are
  // not dilated.
  template <int kCount>
  __device__ __forceinline__ static void stage_batch(const T* kernel, const UpsamplingShape<int32_t>& shape,
                                                     int32_t column_phase, int32_t phase, Wide* to, int32_t elements) {
    T weights[kCount][kWeights] = {};
#pragma unroll
    for (int left = 0; left < 2; ++left) {
      const int32_t j = shape.columns.tap_at(column_phase + left * shape.columns.stride);
      const T* taps = kernel + (j < 0 ? 0 : j);
      const uint32_t rows = j < 0 ? 0 : static_cast<uint32_t>(shape.rows.kernel);
#pragma unroll
      for (int b = 0; b < kCount; ++b) {
#pragma unroll
        for (int above = 0; above < 2; ++above) {
          const int32_t distance = phase + b + above * shape.rows.stride;
          const int32_t i = kCount > 1 ? distance : shape.rows.tap_at(distance);
          const T* tap = ptx::keep(taps + i * int64_t{shape.columns.kernel});
          if (static_cast<uint32_t>(i) < rows) weights[b][2 * above + left] = *tap;
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kCount; ++b) {
#pragma unroll
      for (int k = 0; k < kWeights; ++k, to += elements) *to = Element<T>::widen(weights[b][k]);
    }
  }
};

}  // namespace segext
