// Contract of the extremes of int64 indices or classes, which a range check of them needs.
//
// Op: extremes.
#pragma once

#include "work.h"

namespace segext {

// Values that one pair of extremes stands for.
inline constexpr int64_t kExtremesPart = 8192;

inline int64_t extremes_parts(int64_t count) { return (count + kExtremesPart - 1) / kExtremesPart; }

struct ExtremesParams {
  const int64_t* values;
  int64_t count;
  int64_t ignored;  // what values may be besides; 0 if nothing
  int64_t* parts;   // [extremes_parts(count), 2]: the least and the largest of zero and the values that are not ignored
};

Work extremes_work(const ExtremesParams& params);
void extremes_cpu(const ExtremesParams& params, int64_t begin, int64_t end);
CudaStatus extremes_cuda(const ExtremesParams& params, CudaStream stream);

}  // namespace segext
