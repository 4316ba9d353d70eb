// Forced into every glue file of a build with CUDA: torch's CUDA entry point is weak, so that the same library also
// loads under a CPU-only torch. launch() in kernel.cpp checks that it is there before each use.
#pragma once

extern "C" {
#pragma weak aoti_torch_get_current_cuda_stream
}
