// Contract of gather, scatter's adjoint: each pooled element reads the pixel that its switch refers to.
//
// Ops: max_unpool2d_backward (kKeepLast), max_pool2d_double_backward (kAdd).
#pragma once

#include "scatter.h"

namespace segext {

struct GatherParams {
  const void* map;          // full map, [N, C, H, W]
  const void* relu_output;  // pooled map or null: an element gathers zero where this is <= 0
  const uint8_t* codes;     // [N, sample_bytes]; any bytes are safe
  void* values;             // pooled map, [N, C, pooled_height, pooled_width]; every element is written
  PoolGeometry geometry;
  ElementType type;  // float32, float64, float16 or bfloat16
  Overlap overlap;   // kAdd: every element reads; kKeepLast: only elements that scatter would keep, others get 0
};

Work gather_work(const GatherParams& params);
void gather_cpu(const GatherParams& params, int64_t begin, int64_t end);

CudaStatus gather_cuda(const GatherParams& params, CudaStream stream);

}  // namespace segext
