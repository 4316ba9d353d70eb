// Common glue of pooling and unpooling: checks arguments and derives the geometry.
//
// An op works in the memory format given by its `channels_last` argument: codes must be in that order, other tensors
// are converted first, results are returned in it.
#pragma once

#include "../kernels/switches.h"
#include "checks.h"
#include "kernel.h"
#include "tensors.h"

namespace segext::ops {

Window make_window(const char* op, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                   const Ints& dilation);

// A [N, C, H, W] or [C, H, W] tensor with no empty dimension but N.
void check_map(const char* op, const char* name, const Tensor& tensor);

// Two sizes, none negative.
void check_spatial_size(const char* op, const char* name, const Ints& size);

// A caller's output: of these sizes, like `input` in dtype and device, dense in the op's memory format.
void check_out(const char* op, const Tensor& out, const Tensor& input, const Ints& sizes, bool channels_last);

// True for a caller's output on the CPU that is so large that writing it around the caches pays.
bool streams_into(const Tensor& out);

// Geometry of a pool between the map and the pooled map of these spatial sizes; `sizes`, of either map, gives samples
// and channels.
PoolGeometry make_geometry(const Window& window, const Ints& sizes, const Ints& size, const Ints& pooled_size,
                           bool channels_last);

// Spatial size of the pooled map by stock's rule.
Ints pooled_size(const char* op, const Window& window, const Tensor& input, bool ceil_mode);

// Codes of shape [N, sample_bytes] or, for an unbatched map, [sample_bytes].
Tensor empty_codes(const Tensor& map, const PoolGeometry& geometry);
Tensor checked_codes(const char* op, const Tensor& codes, bool batched, const PoolGeometry& geometry);

const uint8_t* code_data(const Tensor& codes);

}  // namespace segext::ops
