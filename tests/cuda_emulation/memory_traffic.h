// Counts how the warps of emulated kernels touch memory, as a GPU's profiler would: sectors of global memory, and
// cycles of the banks of shared memory.
//
// Kernels must be compiled with -fsanitize=thread, whose calls memory_traffic.cpp answers in place of the sanitizer's
// library, and with -fno-tree-sra, which keeps the accesses of vectors whole. Calls from the same place in the code,
// for the same time in each lane of a warp, count as one instruction of the warp. The host's compiler decides which
// loads are one, so numbers of instructions may differ from a GPU's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace memory_traffic {

// What instructions of warps did.
struct Traffic {
  int64_t requests = 0;  // instructions of warps
  int64_t bytes = 0;     // that their lanes touched; what several lanes of a request touch counts once
  // What serves them: sectors of 32 bytes, or cycles of the banks. Where lanes touch more than a word each, groups that
  // could touch 128 bytes take turns, even if they touch the same; a GPU may be faster.
  int64_t steps = 0;
  int64_t fewest = 0;  // sectors, if the bytes lay side by side; cycles, if no bank were asked for two words at a time
};

// A buffer's name, or "shared" for shared memory; and whether it was written.
using Place = std::pair<std::string, bool>;

// Names a buffer in global memory. What has no name is not counted.
void name_buffer(const char* name, const void* data, int64_t bytes);

// Counts from now on, from zero and with no names.
void start();
const std::map<Place, Traffic>& counts();

}  // namespace memory_traffic
