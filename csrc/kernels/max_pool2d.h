// Contract of max-pooling with switches (ops max_pool2d and relu_max_pool2d).
//
// Every window yields its maximum and the code of the tap that held it: the first maximum in row-major order. A NaN
// beats every number, and the last NaN wins. Taps in the padding are ignored, so a window of -inf selects its first tap
// inside the map. A window wholly in the padding gives the lowest value of the type (-inf) and code 0. With `relu`,
// each tap is first replaced by max(tap, 0) (NaN stays), so a window without a positive value gives 0 and its first tap
// inside the map.
#pragma once

#include "element_type.h"
#include "switches.h"
#include "work.h"

namespace segext {

struct MaxPool2dParams {
  const void* input;  // full map, [N, C, H, W] in the geometry's memory order
  void* output;       // pooled map, [N, C, pooled_height, pooled_width] in the same order
  uint8_t* codes;     // [N, sample_bytes]
  PoolGeometry geometry;
  ElementType type;
  bool relu;
};

// CPU: the op as independent units of work; one thread computes any range of them.
Work max_pool2d_work(const MaxPool2dParams& params);
void max_pool2d_cpu(const MaxPool2dParams& params, int64_t begin, int64_t end);

// CUDA: launches on `stream`; an empty map launches nothing.
CudaStatus max_pool2d_cuda(const MaxPool2dParams& params, CudaStream stream);

}  // namespace segext
