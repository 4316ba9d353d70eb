// The kernel that sums up the losses of upsampled scores; those that make the losses are in cross_entropy.cuh.
#pragma once

#include "cross_entropy.cuh"

namespace segext {

// One block adds up what all blocks found, always in the same order.
template <typename Wide>
__global__ void __launch_bounds__(Launch::kBlockThreads, Launch::kMinBlocks)
    depthwise_cross_entropy_totals_kernel(const double* __restrict__ parts, int64_t count, Wide* __restrict__ loss,
                                          Wide* __restrict__ weight) {
  double loss_sum = 0, weight_sum = 0;
  for (int64_t k = threadIdx.x; k < count; k += Launch::kBlockThreads) {
    loss_sum += parts[2 * k];
    weight_sum += parts[2 * k + 1];
  }
  loss_sum = block_sum(loss_sum);
  weight_sum = block_sum(weight_sum);
  if (threadIdx.x != 0) return;
  if (loss != nullptr) *loss = static_cast<Wide>(loss_sum);
  *weight = static_cast<Wide>(weight_sum);
}

}  // namespace segext
