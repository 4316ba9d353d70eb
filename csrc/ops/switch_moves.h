// Moves values between a pooled map and a full map by switches: unpooling, the backward pass of max-pooling, and the
// derivatives of both.
#pragma once

#include <optional>

#include "../kernels/scatter.h"
#include "pooling.h"

namespace segext::ops {

// What sets one op apart from the others.
struct Move {
  const char* op;
  const char* source;       // the argument that is moved
  const char* target_size;  // the argument with the spatial size of the result
  Overlap overlap;
};

// The full map of spatial size `size` that has the values of the pooled map `source` at their switches and zeros
// elsewhere. `relu_output`, if given, is a saved output of a pool that was fused with a ReLU: values where it is not
// positive are not moved.
Tensor scattered(const Move& move, const Tensor& source, const Tensor& codes, const std::optional<Tensor>& relu_output,
                 const Ints& size, const Window& window, bool channels_last);

// The same, into the caller's tensor.
void scatter_to(const Tensor& out, const Move& move, const Tensor& source, const Tensor& codes,
                const std::optional<Tensor>& relu_output, const Ints& size, const Window& window, bool channels_last);

// The pooled map of spatial size `size` that has the values of the full map `source` at its switches.
Tensor gathered(const Move& move, const Tensor& source, const Tensor& codes, const std::optional<Tensor>& relu_output,
                const Ints& size, const Window& window, bool channels_last);

}  // namespace segext::ops
