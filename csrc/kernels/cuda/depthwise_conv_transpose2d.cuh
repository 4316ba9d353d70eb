// Upsampling without mixing channels, for any geometry: one element per thread, coalesced along the output.
//
//   depthwise_conv_transpose2d_kernel
//
// As in the kernels for special geometries, each output element is written once, by one thread, and no intermediate
// results are stored.
#pragma once

#include "upsampling.cuh"

namespace segext {

// The number of elements of a pixel that are adjacent in memory.
inline int64_t depth_of(const Upsampling& g) { return g.channels_last ? g.channels : 1; }

template <typename T>
struct UpsamplingArrays {
  const T* __restrict__ input;
  const T* __restrict__ weight;
  const T* __restrict__ bias;    // or null
  const T* __restrict__ addend;  // or null; points to its origin
  T* __restrict__ output;
};

// The strides of an addend, in elements: from one row to the next, and from one plane (one sample in channels_last) to
// the next.
struct AddendSteps {
  int64_t row, plane;
};

// A thread writes one element, after looking up which input pixels contribute to it. In channels_last, a block stages
// the kernels of all channels in shared memory if they fit.
template <typename T, typename Index, bool kStaged>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_conv_transpose2d_kernel(UpsamplingArrays<T> arrays, UpsamplingShape<Index> shape, WarpRuns<Index> runs,
                                      Staging staging, AddendSteps addend_steps) {
  using Wide = WideOf<T>;
  const WeightsInMemory<T, Index> in_memory{arrays.weight, shape.rows.kernel, shape.columns.kernel};
  const auto weights = [&] {
    if constexpr (kStaged) {
      return staging.stage<T>(in_memory, shape.channels, [](int32_t row) { return row; });
    } else {
      return in_memory;
    }
  }();
  const auto lane = runs.lane();
  if (lane.sample >= runs.samples || !lane.present) return;

  const Place<Index> at = shape.output.place(lane.element);
  const T* input = arrays.input + static_cast<int64_t>(lane.sample) * shape.input.elements;
  const Wide bias = arrays.bias == nullptr ? Wide{0} : Element<T>::widen(arrays.bias[at.channel]);
  Wide sum = sum_of_taps(shape, input, weights, at, bias);
  if (arrays.addend != nullptr) {
    const bool last = shape.output.channels_last;
    const int64_t plane = last ? lane.sample : static_cast<int64_t>(lane.sample) * shape.channels + at.channel;
    const int64_t in_row = last ? static_cast<int64_t>(at.column) * shape.channels + at.channel : at.column;
    sum += Element<T>::widen(arrays.addend[plane * addend_steps.plane + at.row * addend_steps.row + in_row]);
  }
  arrays.output[static_cast<int64_t>(lane.sample) * runs.elements + lane.element] = Element<T>::narrow(sum);
}

}  // namespace segext
