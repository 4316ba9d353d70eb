// Turns sums into rows of an upsampled map: adds the addend, rounds, and writes to memory.
#pragma once

#include "../depthwise_conv_transpose2d.h"
#include "rows.h"
#include "sums.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The rows of one plane, whose elements have traits E.
template <class E>
class MapRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  // A pixel has `depth` elements.
  MapRows(const DepthwiseConvTranspose2dParams& params, int64_t depth, int64_t plane)
      : elements_(params.operands.geometry.output_width * depth),
        addend_elements_(params.addend.width * depth),
        out_(static_cast<Raw*>(params.output) + plane * params.operands.geometry.output_height * elements_) {
    const Addend& a = params.addend;
    if (a.data == nullptr) return;
    addend_ = static_cast<const Raw*>(a.data) + (plane * a.height + a.origin_h) * addend_elements_ + a.origin_w * depth;
  }

  // Writes kRows rows, from row y on. `sums.next(vectors)` computes the next vector of each of them.
  template <int kRows, class Sums>
  SEGEXT_INLINE void write(int64_t y, Sums sums) const {
    if (addend_ == nullptr) {
      write<kRows, false>(y, sums);
    } else {
      write<kRows, true>(y, sums);
    }
  }

 private:
  // The prefetch distance, at most. A long row prefetched as a whole would leave the first-level cache before it is
  // written.
  static constexpr int64_t kAheadBytes = 4096;

  template <int kRows, bool kAdds, class Sums>
  SEGEXT_INLINE void write(int64_t y, Sums& sums) const {
    constexpr int64_t kN = kLanes<Sum>, kStored = kLanes<Raw>;
    // Local copies: as far as the compiler knows, the stores below could change the members.
    const int64_t elements = elements_, addend_elements = addend_elements_;
    Raw* const out = out_ + y * elements;
    const Raw* const addend = addend_ + y * addend_elements;
    const auto next = [&](Vec<Sum>* sum, int64_t k, int64_t left) SEGEXT_LAMBDA_INLINE {
      sums.next(sum);
      if constexpr (kAdds) {
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) sum[r] += widen_up_to<E>(addend + r * addend_elements + k, left);
      }
    };
    const auto rounded = [&](Vec<Raw>* row, int64_t k, int64_t left) SEGEXT_LAMBDA_INLINE {
      if constexpr (std::is_same_v<Raw, Sum>) {
        next(row, k, left);
      } else {
        Vec<Sum> low[kRows], high[kRows];
        next(low, k, left);
        next(high, k + kN, left - kN);
#pragma GCC unroll 2
        for (int r = 0; r < kRows; ++r) row[r] = narrow_products(E{}, low[r], high[r]);
      }
    };
    // Prefetches cache lines before they are written. At the end of a row these are lines of the next rows, so that
    // memory has work to do while the input of those rows is looked up.
    const int64_t ahead = smaller(elements, kAheadBytes / static_cast<int64_t>(sizeof(Raw)));
    int64_t k = 0;
    Vec<Raw> row[kRows];
    for (; k + kStored <= elements; k += kStored) {
      rounded(row, k, kStored);
      const Raw* coming = out + k + ahead + (k + ahead < elements ? 0 : (kRows - 1) * elements);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        store(out + r * elements + k, row[r]);
        prefetch_for_write(coming + r * elements);
      }
    }
    if (k < elements) {
      rounded(row, k, elements - k);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) store_partial(out + r * elements + k, row[r], elements - k);
    }
  }

  const int64_t elements_, addend_elements_;  // in a row
  Raw* const out_;
  const Raw* addend_ = nullptr;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
