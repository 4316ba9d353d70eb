// Forced into every glue file of a build with CUDA: torch's CUDA entry points are weak, so that the same library also
// loads under a CPU-only torch. launch() in pooling.cpp checks that they are there before the first use.
#pragma once

extern "C" {
#pragma weak aoti_torch_get_current_cuda_stream
#pragma weak torch_c10_cuda_check_msg
#pragma weak torch_c10_cuda_free_error_msg
}
