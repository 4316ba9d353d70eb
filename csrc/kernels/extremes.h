// Contract of the minimum and maximum of int64 indices or classes, which are computed to check their range.
//
// Op: extremes.
#pragma once

#include "work.h"

namespace segext {

// The number of values that one pair of minimum and maximum covers.
inline constexpr int64_t kExtremesPart = 8192;

inline int64_t extremes_parts(int64_t count) { return (count + kExtremesPart - 1) / kExtremesPart; }

struct ExtremesParams {
  const int64_t* values;
  int64_t count;
  int64_t ignored;  // a value to skip, or 0 for none
  int64_t* parts;  // [extremes_parts(count), 2]: minimum and maximum of zero and the part's values that are not ignored
};

Work extremes_work(const ExtremesParams& params);
void extremes_cpu(const ExtremesParams& params, int64_t begin, int64_t end);
CudaStatus extremes_cuda(const ExtremesParams& params, CudaStream stream);

}  // namespace segext
