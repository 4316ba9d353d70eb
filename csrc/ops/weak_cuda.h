// Force-included into every glue file of a build with CUDA: declares torch's CUDA entry point weak, so that the library
// also loads under a CPU-only torch. launch() in kernel.cpp checks that it exists before each use.
#pragma once

extern "C" {
#pragma weak aoti_torch_get_current_cuda_stream
}
