// The instruction sets the CPU kernels are compiled for, and the one in use.
#pragma once

namespace segext {

enum class CpuCapability { kBaseline, kAvx2, kAvx512 };

// The best level this processor supports, or a lower one named by the environment variable SEGEXT_CPU_CAPABILITY
// (baseline, avx2 or avx512, in either case; anything else is an error). Determined by the first call.
CpuCapability cpu_capability();

const char* cpu_capability_name();

}  // namespace segext
