// Contract of scatter: the values of a pooled map go to the pixels of their switches; every other pixel gets zero.
//
// Ops: max_unpool2d (kKeepLast), max_pool2d_backward (kAdd), and, as adjoints, the derivatives of gather's ops.
#pragma once

#include "element_type.h"
#include "switches.h"
#include "work.h"

namespace segext {

// What a pixel gets if the switches of several overlapping windows name it.
enum class Overlap : uint8_t {
  kKeepLast,  // the value of the last of them in row-major order of the pooled map
  kAdd,       // their sum, taken in that order; in float32 for half types
};

struct ScatterParams {
  const void* values;       // pooled map, [N, C, pooled_height, pooled_width]
  const void* relu_output;  // pooled map or null: values whose relu_output is <= 0 count as zero (NaN does not)
  const uint8_t* codes;     // [N, sample_bytes]; any bytes are safe
  void* map;                // full map, [N, C, H, W]; every element is written
  PoolGeometry geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
  Overlap overlap;
  bool bypass_caches;  // CPU: the map is larger than the caches and its pages are resident, so write around the caches
};

Work scatter_work(const ScatterParams& params);
void scatter_cpu(const ScatterParams& params, int64_t begin, int64_t end);

CudaStatus scatter_cuda(const ScatterParams& params, CudaStream stream);

}  // namespace segext
