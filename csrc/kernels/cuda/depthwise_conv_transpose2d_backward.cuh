// Kernels of the gradients of upsampling: those of upsampling_gradients.cuh from a map in memory, and
//
//   sum_parts_kernel   adds up what blocks found for weights and bias
#pragma once

#include "upsampling_gradients.cuh"

namespace segext {

// Gradients that lie in memory. Where neighbouring threads have neighbouring columns, what they read is side by side in
// NCHW, and in channels_last a pixel apart: there, blocks of neighbouring channels are meant to find it in the L2
// cache.
template <typename T>
struct StoredGradients {
  const T* __restrict__ data;
  int64_t sample_step;  // elements from a sample to the next, but for what its pixels make of them
  int64_t channel_step, pixel_step;

  StoredGradients(const void* data, const Upsampling& g)
      : data(static_cast<const T*>(data)),
        sample_step(g.channels_last ? 0 : (g.channels - 1) * g.output_height * g.output_width),
        channel_step(g.channels_last ? 1 : g.output_height * g.output_width),
        pixel_step(g.channels_last ? g.channels : 1) {}

  struct Plane {
    const T* first;
    int64_t pixel_step;

    template <typename Score>
    __device__ __forceinline__ typename Element<T>::Wide at(int64_t pixel, const Score&) const {
      return Element<T>::widen(first[pixel * pixel_step]);
    }
  };

  template <typename Index>
  __device__ __forceinline__ Plane plane(Index sample, Index c) const {
    return {data + sample * sample_step + c * channel_step, pixel_step};
  }
};

// A thread has an element of the total.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    sum_parts_kernel(const typename Element<T>::Wide* __restrict__ parts, T* __restrict__ total, int64_t count,
                     int64_t size) {
  const int64_t k = thread_number();
  if (k >= size) return;
  double sum = 0;
  for (int64_t part = 0; part < count; ++part) sum += parts[part * size + k];
  total[k] = Element<T>::narrow(static_cast<typename Element<T>::Wide>(sum));
}

}  // namespace segext
