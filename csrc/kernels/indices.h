// Contract of everything that reads or writes stock's int64 indices (row * width + column of the full map).
//
// This covers conversions between indices and packed codes, and unpooling by indices. If several elements have the same
// index, the last one wins, as in scatter's kKeepLast.
//
// Ops: max_unpool2d_indices, max_unpool2d_indices_backward, switches_from_indices, switches_to_indices.
#pragma once

#include "element_type.h"
#include "switches.h"
#include "work.h"

namespace segext {

// Codes to indices. A code that names no pixel of the map becomes -1.
struct IndicesFromCodesParams {
  const uint8_t* codes;  // [N, sample_bytes]
  int64_t* indices;      // pooled map, in the geometry's memory order
  PoolGeometry geometry;
};

// Indices to codes. An index that lies on no tap of its window is counted in *invalid, and its element gets code 0.
struct CodesFromIndicesParams {
  const int64_t* indices;
  uint8_t* codes;
  int64_t* invalid;  // one counter, zeroed by the caller; on the device for CUDA
  PoolGeometry geometry;
};

// A plane's pooled pixels are numbered from 1 in 32 bits, so it must have fewer pooled pixels than this.
inline constexpr int64_t kMaxNumbered = int64_t{1} << 32;

// A full map and a pooled map whose elements name pixels of it. Out-of-range indices place and gather nothing.
struct IndexedMaps {
  const int64_t* indices;                            // pooled map
  int64_t samples, channels, pixels, pooled_pixels;  // on CUDA, pooled_pixels < kMaxNumbered
  bool channels_last;
  ElementType type;  // float32, float64, float16 or bfloat16
};

struct IndexUnpoolParams {
  IndexedMaps maps;
  const void* values;  // pooled map
  void* map;           // full map; every element is written
  uint32_t* winners;   // CUDA only: scratch: which pooled element wins each element of the full map
};

// The adjoint.
struct IndexUnpoolBackwardParams {
  IndexedMaps maps;
  const void* grad_map;  // full map
  void* grad_values;     // pooled map
  uint32_t* winners;     // as above
};

Work indices_from_codes_work(const IndicesFromCodesParams& params);
void indices_from_codes_cpu(const IndicesFromCodesParams& params, int64_t begin, int64_t end);
CudaStatus indices_from_codes_cuda(const IndicesFromCodesParams& params, CudaStream stream);

Work codes_from_indices_work(const CodesFromIndicesParams& params);
void codes_from_indices_cpu(const CodesFromIndicesParams& params, int64_t begin, int64_t end);
CudaStatus codes_from_indices_cuda(const CodesFromIndicesParams& params, CudaStream stream);

Work index_unpool_work(const IndexUnpoolParams& params);
void index_unpool_cpu(const IndexUnpoolParams& params, int64_t begin, int64_t end);
Work index_unpool_backward_work(const IndexUnpoolBackwardParams& params);
void index_unpool_backward_cpu(const IndexUnpoolBackwardParams& params, int64_t begin, int64_t end);
CudaStatus index_unpool_cuda(const IndexUnpoolParams& params, CudaStream stream);
CudaStatus index_unpool_backward_cuda(const IndexUnpoolBackwardParams& params, CudaStream stream);

}  // namespace segext
