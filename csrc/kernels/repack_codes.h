// Contract of repacking: the codes of a sample from one memory order to the other.
//
// Op: switches_repack.
#pragma once

#include "switches.h"
#include "work.h"

namespace segext {

// `geometry` describes the source; the code width and the sizes stay the same.
struct RepackCodesParams {
  const uint8_t* codes;  // [N, sample_bytes]; any bytes are safe
  uint8_t* repacked;     // [N, sample_bytes]
  PoolGeometry geometry;
};

Work repack_codes_work(const RepackCodesParams& params);
void repack_codes_cpu(const RepackCodesParams& params, int64_t begin, int64_t end);
CudaStatus repack_codes_cuda(const RepackCodesParams& params, CudaStream stream);

}  // namespace segext
