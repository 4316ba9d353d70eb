// The kernels of a device, as the cases run them: what a program that links the cases must define. Each function runs
// the op of its name to the end, with the scratch memory that the device needs; where that fails, it ends the program.
#pragma once

#include <string>

#include "dense_conv_transpose2d.h"
#include "depthwise_cross_entropy.h"
#include "extremes.h"
#include "gather.h"
#include "indices.h"
#include "max_pool2d.h"
#include "repack_codes.h"
#include "scatter.h"
#include "unpool_conv2d.h"

namespace backend {

using namespace segext;  // NOLINT: of the kernels that it runs

// How the last op ran, for messages.
std::string manner();

void max_pool2d(const MaxPool2dParams& params, const std::string& what);
void scatter(const ScatterParams& params, const std::string& what);
void gather(const GatherParams& params, const std::string& what);
void extremes(const ExtremesParams& params, const std::string& what);
void indices_from_codes(const IndicesFromCodesParams& params, const std::string& what);
void codes_from_indices(const CodesFromIndicesParams& params, const std::string& what);
void repack_codes(const RepackCodesParams& params, const std::string& what);
void index_unpool(const IndexUnpoolParams& params, const std::string& what);                   // without `winners`
void index_unpool_backward(const IndexUnpoolBackwardParams& params, const std::string& what);  // likewise
void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& params, const std::string& what);
void depthwise_argmax(const DepthwiseArgmaxParams& params, const std::string& what);
void depthwise_conv_transpose2d_backward(const DepthwiseConvTranspose2dBackwardParams& params, const std::string& what);
void sum_parts(const SumPartsParams& params, const std::string& what);
// With the totals that CUDA returns, but their `parts`; without `rows`.
void depthwise_cross_entropy(const DepthwiseCrossEntropyParams& params, const std::string& what);
void depthwise_cross_entropy_backward(const DepthwiseCrossEntropyBackwardParams& params, const std::string& what);
void unpool_conv2d(const UnpoolConv2dParams& params, const std::string& what);  // without `panels` and scratch

GradientParts depthwise_conv_transpose2d_backward_parts(const Upsampling& geometry);
GradientParts depthwise_cross_entropy_backward_parts(const Upsampling& geometry);

// Whether the kernels take pooled maps without pixels, which no op passes; and upsamplings of any origin and stride.
bool takes_empty_pooled_maps();
bool takes(const Upsampling& geometry);

// Selects, where there is one, a device that has other kernels for half types.
void use_older_device(bool older);

}  // namespace backend
