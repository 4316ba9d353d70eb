// The CPU kernels as a backend, and what its program may ask it beyond that.
#pragma once

#include "backend.h"

namespace backend {

// How the units of an op are run: all at once, or divided into ranges at random places that are run in random order.
enum class Division { kWhole, kSplit };

void divide(Division division);

// Leaves out the last unit of every op: a bug for the program's self-test.
void skip_last_unit();

// Ops that only the CPU has.
void dense_conv_transpose2d(const DenseConvTranspose2dParams& params, const TapPanelParams& weight,
                            const std::string& what);  // without panels
// For all samples. The sums of the weight's gradient are unpacked to `grad_weight`, if its data is not null.
void unpool_conv2d_backward(const UnpoolConv2dBackwardParams& params, const WeightView& weight,
                            const StridedWeight<void>& grad_weight, const std::string& what);  // without panels

}  // namespace backend
