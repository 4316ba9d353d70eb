// Panels: groups of a convolution's outputs, a few vectors wide, that kernels compute together.
#pragma once

#include <cstdint>

#include "inline.h"

namespace segext {

inline constexpr int64_t kPanel = 16;

SEGEXT_INLINE int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }

}  // namespace segext
