// Determines the instruction set to use, from the processor and the environment.
#include "capability.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace segext {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

CpuCapability detect() {
  CpuCapability best = CpuCapability::kBaseline;
#if defined(SEGEXT_X86_LEVELS)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("f16c")) {
    best = CpuCapability::kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      best = CpuCapability::kAvx512;
    }
  }
  if (const char* wanted = std::getenv("SEGEXT_CPU_CAPABILITY")) {
    for (CpuCapability level : {CpuCapability::kBaseline, CpuCapability::kAvx2}) {
      if (level < best && std::strcmp(wanted, kNames[static_cast<int>(level)]) == 0) return level;
    }
  }
#endif
  return best;
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability level = detect();
  return level;
}

const char* cpu_capability_name() { return kNames[static_cast<int>(cpu_capability())]; }

}  // namespace segext
