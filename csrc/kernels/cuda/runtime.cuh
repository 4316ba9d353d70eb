// The CUDA runtime and the half-precision intrinsics, or the CPU emulation of them that runs the kernels in tests.
// The only file here that knows there are two.
#pragma once

#if defined(SEGEXT_CUDA_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
