// Writes finished rows of one part of a panel, laid out as [pixels, lanes], to the output in either memory format.
#pragma once

#include "../panels.h"
#include "buffer.h"
#include "sums.h"
#include "transpose.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Parts in a panel. A part is as many outputs of the panel as a vector of sums has lanes.
template <class Sum>
inline constexpr int64_t kPanelParts = kPanel / kLanes<Sum>;

template <class E>
class PanelRowWriter {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  // Writes to a result [N, outputs, height, width].
  PanelRowWriter(void* output, int64_t outputs, int64_t height, int64_t width, bool channels_last)
      : output_(static_cast<Raw*>(output)),
        outputs_(outputs),
        height_(height),
        width_(width),
        channels_last_(channels_last) {}

  // Writes row `y` of outputs [first, first + lanes); lanes past the last output are skipped. Pixel x of the row is at
  // pixels + x * step.
  void write(int64_t sample, int64_t first, int64_t y, const Sum* pixels, int64_t step) {
    const int64_t count = smaller(kN, outputs_ - first);
    if (count <= 0) return;
    if (channels_last_) {
      Raw* out = output_ + ((sample * height_ + y) * width_) * outputs_ + first;
      if (count == kN) {
        for (int64_t x = 0; x < width_; ++x) narrow_run<E>(pixels + x * step, kN, out + x * outputs_);
      } else {
        for (int64_t x = 0; x < width_; ++x) narrow_run<E>(pixels + x * step, count, out + x * outputs_);
      }
      return;
    }
    const int64_t plane = height_ * width_;
    Raw* out = output_ + (sample * outputs_ + first) * plane + y * width_;
    if constexpr (std::is_same_v<Raw, Sum>) {
      if (count == kN) return transpose<kN>(pixels, step, width_, kN, out, plane);
    }
    Sum* transposed = transposed_.reserve(kN * width_);
    transpose<kN>(pixels, step, width_, kN, transposed, width_);
    for (int64_t k = 0; k < count; ++k) narrow_run<E>(transposed + k * width_, width_, out + k * plane);
  }

 private:
  Raw* output_;
  const int64_t outputs_, height_, width_;
  const bool channels_last_;
  Buffer<Sum> transposed_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
