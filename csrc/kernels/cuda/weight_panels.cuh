// Packs the weights of a 3x3 convolution in the order in which the kernels read them. The last group of outputs and the
// last step of channels are padded with zeros, so that the kernels read whole vectors without bounds checks.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../unpool_conv2d.h"
#include "divisor.cuh"
#include "element.cuh"
#include "launch.cuh"

namespace segext {

// Finds whether the code that runs on the current device multiplies elements of this type on tensor cores
// (unpool_conv2d_tiles.cuh). If so, panels are FragmentWeights, otherwise LaneWeights.
CudaStatus find_mma(ElementType type, bool* found);

// Calls `function` with the TypeTag of a type and the result of find_mma as a compile-time constant.
template <typename Function>
CudaStatus for_products(ElementType type, const Function& function) {
  bool by_tiles = false;
  const CudaStatus status = find_mma(type, &by_tiles);
  if (status != cudaSuccess) return status;
  return for_float(type, [&](auto tag) {
    if constexpr (sizeof(typename decltype(tag)::Type) == 2) {
      if (by_tiles) return function(tag, std::true_type{});
    }
    return function(tag, std::false_type{});
  });
}

struct WeightPlace {
  int64_t output, channel;
  int tap;
};

// [groups, channels, 9 taps, 32 lanes, outputs of a lane]. A lane has 8 bytes: two outputs of float32 or one of
// float64. The outputs of a lane are 32 apart, so that neighbouring lanes have neighbouring outputs.
template <typename Wide>
struct LaneWeights {
  using Outputs = HalfVector<Wide>;
  static constexpr int kOutputs = Launch::kWarpThreads * Outputs::kLanes;  // outputs per group
  static constexpr int kChannel = kPanelTaps * kOutputs;

  Divisor<int64_t> by_channels;

  explicit LaneWeights(int64_t channels) : by_channels(cuda_panel_channels(channels)) {}

  __device__ __forceinline__ WeightPlace place(int64_t element) const {
    WeightPlace place;
    const int in_channel = static_cast<int>(element % kChannel), in_tap = in_channel % kOutputs;
    place.output = by_channels.divide(element / kChannel, &place.channel) * kOutputs + in_tap / Outputs::kLanes +
                   in_tap % Outputs::kLanes * Launch::kWarpThreads;
    place.tap = in_channel / kOutputs;
    return place;
  }
};

// [groups of 64 outputs, steps of 16 channels, 9 taps, 2 halves of 32 outputs, 2 vectors, 32 lanes, 8 elements]: the
// right-hand operands of tile products (ptx.cuh), as lanes hold them. An operand is 16 channels by 8 outputs, of which
// a lane holds two pairs of neighbouring channels; a vector holds a lane's share of two operands. The outputs of a half
// are assigned to its four operands so that the sums of each lane belong to eight neighbouring outputs: output 8 * q +
// 2 * t + e of the half is column 2 * q + e of operand t.
struct FragmentWeights {
  static constexpr int kHalfOutputs = 32, kHalves = 2, kOutputs = kHalves * kHalfOutputs, kChannels = 16;
  static constexpr int kVectors = 2, kElements = 8;
  static constexpr int kHalf = kVectors * Launch::kWarpThreads * kElements;
  static constexpr int kTap = kHalves * kHalf;
  static constexpr int kStep = kPanelTaps * kTap;
  static_assert(kStep == kPanelTaps * kChannels * kOutputs, "each weight once");

  Divisor<int64_t> by_steps;

  explicit FragmentWeights(int64_t channels) : by_steps(cuda_panel_channels(channels) / kChannels) {}

  __device__ __forceinline__ WeightPlace place(int64_t element) const {
    int64_t step;
    const int64_t group = by_steps.divide(element / kStep, &step);
    const int in_step = static_cast<int>(element % kStep), in_half = in_step % kHalf;
    const int vector = in_half / (Launch::kWarpThreads * kElements), k = in_half % kElements;
    const int lane = in_half / kElements % Launch::kWarpThreads;
    const int operand = 2 * vector + k / 4, pair = k / 2 % 2, column = lane / 4;
    const int output = column / 2 * 8 + operand * 2 + column % 2;
    const int channel = pair * 8 + lane % 4 * 2 + k % 2;
    return {group * kOutputs + in_step / kHalf % kHalves * kHalfOutputs + output, step * kChannels + channel,
            in_step / kTap};
  }
};

// Each thread packs one element of the panels.
template <typename T, typename Packed, typename Layout>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    pack_weight_panels_kernel(WeightView weight, Packed* __restrict__ panels, int64_t channels, int64_t outputs,
                              int64_t elements, Layout layout) {
  const int64_t element = thread_number();
  if (element >= elements) return;
  const WeightPlace at = layout.place(element);
  T value{};
  if (at.channel < channels && at.output < outputs) {
    value = static_cast<const T*>(weight.data)[at.channel * weight.channel_stride + at.output * weight.output_stride +
                                               at.tap / 3 * weight.row_stride + at.tap % 3 * weight.column_stride];
  }
  if constexpr (sizeof(Packed) == sizeof(T)) {
    panels[element] = value;
  } else {
    panels[element] = Element<T>::widen(value);
  }
}

}  // namespace segext
