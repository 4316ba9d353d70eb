// Minimum and maximum of int64 values and zero, one pair for each part of the values.
#include "../extremes.h"

#include "rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

void extremes(const ExtremesParams& params, int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; ++part) {
    const int64_t first = part * kExtremesPart, last = smaller(first + kExtremesPart, params.count);
    int64_t low = 0, high = 0;
    for (int64_t k = first; k < last; ++k) {
      const int64_t value = params.values[k] == params.ignored ? 0 : params.values[k];
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
    params.parts[2 * part] = low;
    params.parts[2 * part + 1] = high;
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
