// Kernels for the gradients of upsampling from output gradients in memory: those of upsampling_gradients.cuh,
// depthwise_input_gradient_x2.cuh, depthwise_input_gradient_channels_last.cuh and
// depthwise_weight_gradient_channels_last.cuh, and
//
//   sum_parts_kernel   sums the blocks' parts of the gradients of weights and bias
#pragma once

#include "depthwise_input_gradient_channels_last.cuh"
#include "depthwise_input_gradient_x2.cuh"
#include "depthwise_weight_gradient_channels_last.cuh"
#include "upsampling_gradients.cuh"

namespace segext {

// A Source (see upsampling_gradients.cuh) of gradients that are stored in memory. Where neighbouring threads have
// neighbouring columns, their reads are adjacent in NCHW, but a pixel apart in channels_last. For channels_last calls
// that the kernels for that order do not support, blocks of neighbouring channels are expected to find the data in the
// L2 cache.
template <typename T>
struct StoredGradients {
  static constexpr int kRowsAtOnce = 8;
  const T* __restrict__ data;

  template <typename Index>
  struct Column {
    static constexpr bool plain = true;
    const T* next;
    Index row_step;

    template <int kRows, typename Score>
    __device__ __forceinline__ void read(const Score&, WideOf<T> (&gradients)[kRows]) const {
#pragma unroll
      for (int k = 0; k < kRows; ++k) gradients[k] = Element<T>::widen(next[k * row_step]);
    }

    __device__ __forceinline__ void advance(Index rows) { next += rows * static_cast<int64_t>(row_step); }
  };

  template <typename Index>
  __device__ __forceinline__ Column<Index> column(const UpsamplingShape<Index>& shape, Index sample, Index c, Index y,
                                                  Index x) const {
    const Order<Index>& output = shape.output;
    return {data + sample * static_cast<int64_t>(output.elements) + c * static_cast<int64_t>(output.channel_stride) +
                y * static_cast<int64_t>(output.row_stride) + x * static_cast<int64_t>(output.column_stride),
            output.row_stride};
  }
};

// A block has as many neighbouring elements of the total as a warp has threads. Its warps take the parts in turn, so
// that hundreds of parts do not form one long chain of dependent additions.
template <typename T>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    sum_parts_kernel(const WideOf<T>* __restrict__ parts, T* __restrict__ total, int64_t count, int64_t size) {
  const int warp = static_cast<int>(threadIdx.x) / Launch::kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % Launch::kWarpThreads;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * Launch::kWarpThreads + lane;
  double sum = 0;
#pragma unroll 4
  for (int64_t part = k < size ? warp : count; part < count; part += Launch::kBlockWarps) sum += parts[part * size + k];
  auto* sums = dynamic_shared_memory<double>();  // [kBlockWarps, kWarpThreads]
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || k >= size) return;
#pragma unroll
  for (int other = 1; other < Launch::kBlockWarps; ++other) sum += sums[other * Launch::kWarpThreads + lane];
  total[k] = Element<T>::narrow(static_cast<WideOf<T>>(sum));
}

}  // namespace segext
