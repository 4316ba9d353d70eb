// Common glue of pooling and unpooling: checks arguments and derives the geometry.
//
// An op works in the memory format given by its `channels_last` argument: codes must be in that order, other tensors
// are converted to it first, and results are returned in it.
#pragma once

#include "../kernels/switches.h"
#include "checks.h"
#include "kernel.h"
#include "tensors.h"

namespace segext::ops {

Window make_window(const char* op, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                   const Ints& dilation);

// Checks for a [N, C, H, W] or [C, H, W] tensor with no empty dimension but N.
void check_map(const char* op, const char* name, const Tensor& tensor);

// Checks for two sizes, none negative.
void check_spatial_size(const char* op, const char* name, const Ints& size);

// Checks that a caller's output has these sizes, `input`'s dtype and device, and is dense in the op's memory format.
void check_out(const char* op, const Tensor& out, const Tensor& input, const Ints& sizes, bool channels_last);

// True for a caller's output on the CPU that is so large that writing past the caches pays off.
bool bypasses_caches(const Tensor& out);

// The geometry of a pool from a map of spatial size `size` to a pooled map of `pooled_size`. Samples and channels come
// from `sizes`, which are those of either map.
PoolGeometry make_geometry(const char* op, const Window& window, const Ints& sizes, const Ints& size,
                           const Ints& pooled_size, bool channels_last);

// The geometry to give to pooling kernels: maps of a single column lie in memory as if they were a single row, and few
// long rows take less time than many short ones. The codes are the same. Any other geometry is returned as it is.
PoolGeometry as_row(const PoolGeometry& geometry);

// The spatial size of the pooled map, by stock's rule.
Ints pooled_size(const char* op, const Window& window, const Tensor& input, bool ceil_mode);

// Codes of shape [N, sample_bytes] or, for an unbatched map, [sample_bytes].
Tensor empty_codes(const Tensor& map, const PoolGeometry& geometry);
Tensor checked_codes(const char* op, const Tensor& codes, bool batched, const PoolGeometry& geometry);

const uint8_t* code_data(const Tensor& codes);

}  // namespace segext::ops
