// The 3x3 kernels between one channel and the outputs of one panel, and how they are copied to the panel and back.
#pragma once

#include <type_traits>

#include "../unpool_conv2d.h"
#include "element.h"
#include "sums.h"
#include "transpose.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// T, const if Like is.
template <class Like, class T>
using LikeConst = std::conditional_t<std::is_const_v<Like>, const T, T>;

// Weight is a StridedWeight; only one that is not const can be unpacked into.
template <class E, class Weight = WeightView>
class PanelKernels {
  using Raw = LikeConst<std::remove_pointer_t<decltype(Weight::data)>, typename E::Raw>;
  using Sum = SumOf<E>;

 public:
  PanelKernels(const Weight& weight, int64_t outputs, int64_t channel, int64_t panel)
      : w_(weight),
        data_(static_cast<Raw*>(w_.data) + channel * w_.channel_stride + panel * kPanel * w_.output_stride),
        outputs_(smaller(kPanel, outputs - panel * kPanel)),
        adjacent_(w_.column_stride * w_.column_stride == 1 && w_.row_stride == 3 * w_.column_stride) {}

  // Prefetches what packing will read. Hardware prefetchers do not predict runs this short and this far apart.
  SEGEXT_INLINE void prefetch() const {
    const Raw* kernel = first();
    for (int64_t k = 0; k < outputs_; ++k) __builtin_prefetch(kernel + k * w_.output_stride);
  }

  void pack(Sum* panel) const {
    if (w_.output_stride == 1) {
      if (outputs_ < kPanel) std::memset(panel, 0, kPanelTaps * kPanel * sizeof(Sum));
      for (int64_t tap = 0; tap < kPanelTaps; ++tap) widen_run<E>(tap_data(tap), outputs_, panel + tap * kPanel);
      return;
    }
    // Transposes squares, a vector at a time, although only nine of their columns or rows are used.
    if constexpr (kLanes<Sum> == kPanel) {
      if (adjacent_) return pack_adjacent(panel);
    }
    Sum kernels[kPanel * kPanel] = {}, taps[kPanel * kPanel];
    for (int64_t k = 0; k < outputs_; ++k) load(k, kernels + k * kPanel);
    transpose<kLanes<Sum>>(kernels, kPanel, kPanel, kPanel, taps, kPanel);
    for (int64_t tap = 0; tap < kPanelTaps; ++tap) {
      std::memcpy(panel + tap * kPanel, taps + place(tap) * kPanel, kPanel * sizeof(Sum));
    }
  }

  void unpack(const Sum* panel) const {
    Sum taps[kPanel * kPanel] = {}, kernels[kPanel * kPanel];
    for (int64_t tap = 0; tap < kPanelTaps; ++tap) {
      std::memcpy(taps + place(tap) * kPanel, panel + tap * kPanel, kPanel * sizeof(Sum));
    }
    transpose<kLanes<Sum>>(taps, kPanel, kPanel, kPanel, kernels, kPanel);
    for (int64_t k = 0; k < outputs_; ++k) store(k, kernels + k * kPanel);
  }

 private:
  // Packs adjacent kernels where a vector holds a whole one: transposes in registers rather than through memory.
  SEGEXT_INLINE void pack_adjacent(Sum* panel) const {
    Vec<Sum> square[kPanel];
#pragma GCC unroll 16
    for (int64_t k = 0; k < kPanel; ++k) {
      square[k] = widen_up_to<E>(first() + k * w_.output_stride, k < outputs_ ? kPanelTaps : 0);
    }
    transpose_square(square, std::make_integer_sequence<int, kPanel>{});
#pragma GCC unroll 9
    for (int64_t tap = 0; tap < kPanelTaps; ++tap) {
      SEGEXT_CPU_CAPABILITY::store(panel + place(tap) * kPanel, square[tap]);
    }
  }

  // Loads the nine weights of an output: in memory order if they are adjacent, else in the order of the taps.
  SEGEXT_INLINE void load(int64_t output, Sum* kernel) const {
    if (adjacent_) return widen_run<E>(first() + output * w_.output_stride, kPanelTaps, kernel);
    for (int64_t tap = 0; tap < kPanelTaps; ++tap) {
      widen_run<E>(tap_data(tap) + output * w_.output_stride, 1, kernel + tap);
    }
  }

  SEGEXT_INLINE void store(int64_t output, const Sum* kernel) const {
    if (adjacent_) return narrow_run<E>(kernel, kPanelTaps, first() + output * w_.output_stride);
    for (int64_t tap = 0; tap < kPanelTaps; ++tap) {
      narrow_run<E>(kernel + tap, 1, tap_data(tap) + output * w_.output_stride);
    }
  }

  // The position of tap `tap` among the nine weights that load() gives.
  SEGEXT_INLINE int64_t place(int64_t tap) const {
    return adjacent_ && w_.column_stride < 0 ? kPanelTaps - 1 - tap : tap;
  }

  // The first of nine adjacent weights in memory.
  SEGEXT_INLINE Raw* first() const { return w_.column_stride < 0 ? tap_data(kPanelTaps - 1) : data_; }
  SEGEXT_INLINE Raw* tap_data(int64_t tap) const {
    return data_ + tap / 3 * w_.row_stride + tap % 3 * w_.column_stride;
  }

  const Weight& w_;
  Raw* data_;
  const int64_t outputs_;
  const bool adjacent_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
