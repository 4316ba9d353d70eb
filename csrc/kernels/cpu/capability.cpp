// Determines the instruction set to use, from the processor and the environment.
#include "capability.h"

#include <strings.h>

#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace segext {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

CpuCapability best_supported() {
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
#endif
  return best;
}

CpuCapability detect() {
  const CpuCapability best = best_supported();
  const char* wanted = std::getenv("SEGEXT_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (CpuCapability level : {CpuCapability::kBaseline, CpuCapability::kAvx2, CpuCapability::kAvx512}) {
    if (strcasecmp(wanted, kNames[static_cast<int>(level)]) == 0) return level < best ? level : best;
  }
  throw std::runtime_error(std::string("SEGEXT_CPU_CAPABILITY should be baseline, avx2 or avx512, but is ") + wanted);
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability level = detect();
  return level;
}

const char* cpu_capability_name() { return kNames[static_cast<int>(cpu_capability())]; }

}  // namespace segext
