// Weights of 3x3 convolutions to panels and back.
#include "pooled_cells.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// The kernels of one channel and one panel's outputs.
template <class E>
class Kernels {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  Kernels(const WeightPanelParams& p, int64_t channel, int64_t panel)
      : w_(p.weight),
        data_(static_cast<Raw*>(w_.data) + channel * w_.channel_stride + panel * kPanel * w_.output_stride),
        outputs_(smaller(kPanel, p.outputs - panel * kPanel)),
        adjacent_(w_.column_stride * w_.column_stride == 1 && w_.row_stride == 3 * w_.column_stride) {}

  void pack(Sum* panel) const {
    if (w_.output_stride == 1) {
      if (outputs_ < kPanel) std::memset(panel, 0, kPanelTaps * kPanel * sizeof(Sum));
      for (int64_t tap = 0; tap < kPanelTaps; ++tap) widen_run<E>(tap_data(tap), outputs_, panel + tap * kPanel);
      return;
    }
    // Squares, of which nine columns or rows count: they turn a vector at a time.
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
  // The nine weights of an output, in memory order if they lie together.
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

  // Where tap `tap` is among the nine that load gives.
  SEGEXT_INLINE int64_t place(int64_t tap) const {
    return adjacent_ && w_.column_stride < 0 ? kPanelTaps - 1 - tap : tap;
  }

  // The first of nine adjacent weights in memory.
  SEGEXT_INLINE Raw* first() const { return w_.column_stride < 0 ? tap_data(kPanelTaps - 1) : data_; }
  SEGEXT_INLINE Raw* tap_data(int64_t tap) const {
    return data_ + tap / 3 * w_.row_stride + tap % 3 * w_.column_stride;
  }

  const WeightView& w_;
  Raw* data_;
  const int64_t outputs_;
  const bool adjacent_;
};

// Calls f(kernels, their panel) for channels [begin, end).
template <class F>
void for_each_panel(const WeightPanelParams& params, int64_t begin, int64_t end, F&& f) {
  with_floating_element(params.type, [&](auto element) {
    using E = decltype(element);
    auto* panels = static_cast<SumOf<E>*>(params.panels);
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t panel = 0; panel < panels_of(params.outputs); ++panel) {
        f(Kernels<E>(params, c, panel), panels + (panel * params.channels + c) * kPanelTaps * kPanel);
      }
    }
  });
}

}  // namespace

void pack_weight_panels(const WeightPanelParams& params, int64_t begin, int64_t end) {
  for_each_panel(params, begin, end, [](const auto& kernels, auto* panel) { kernels.pack(panel); });
}

void unpack_weight_panels(const WeightPanelParams& params, int64_t begin, int64_t end) {
  for_each_panel(params, begin, end, [](const auto& kernels, const auto* panel) { kernels.unpack(panel); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
