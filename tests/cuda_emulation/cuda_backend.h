// The emulated CUDA kernels as a backend, and what its program may ask it beyond that.
#pragma once

#include <cstdint>
#include <map>

#include "backend.h"

namespace backend {

// From here on, records launches.
void observe_launches();

// The number of launches of each kernel.
const std::map<const void*, int64_t>& launches();

// Whether upsampling runs on one multiprocessor and has so much work that its threads take several batches of cells.
void expect_long_threads(bool expected);

}  // namespace backend
