// How far the kernels of transposed convolutions may reach.
#pragma once

#include <cstdint>

namespace segext {

// The most that a stride and a kernel's reach, (kernel - 1) * dilation, may be along an axis. Scratch grows with both.
// Within this limit an output pixel has fewer than 2^31 taps, and neither the elements of a padded row nor those of a
// padded plane overflow 64 bits. Products of these with the number of planes may; cpu/buffer.h checks them.
inline constexpr int64_t kMaxReach = 32768;

}  // namespace segext
