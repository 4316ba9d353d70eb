// Decodes the switches of a pooled row one by one: for windows and maps where comparing vectors of codes with every tap
// costs more.
#pragma once

#include "codes.h"
#include "rows.h"
#include "strided.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

class SwitchPixels {
 public:
  // Whether decoding is faster for a map of elements like T: a comparison handles a vector of elements, but each
  // element takes one for every tap. In channels_last vectors need no shuffling, so that comparisons cost half as much.
  template <class T>
  static SEGEXT_INLINE bool suits(const PoolGeometry& g) {
    const int64_t taps = g.window.kernel_h * g.window.kernel_w;
    if (g.channels_last) return g.bits > kMaxByteBits || taps > 2 * kLanes<T>;
    return taps > kLanes<T> || !has_strided_path(g);
  }

  explicit SwitchPixels(const PoolGeometry& g) : g_(g), w_(g.window), rows_(g) {
    if (g.bits > kMaxByteBits) return;
    for (int64_t code = 0; code < w_.kernel_h * w_.kernel_w; ++code) taps_[code] = computed_tap(code);
  }

  // The pooled rows whose windows may reach full rows `band` of a plane.
  SEGEXT_INLINE Range pooled_rows(Range band) const {
    if (band.begin == 0 && band.end == g_.height) return {0, g_.pooled_height};
    const int64_t reach = (w_.kernel_h - 1) * w_.dilation_h;
    return {clamp(ceil_div(band.begin + w_.padding_h - reach, w_.stride_h), 0, g_.pooled_height),
            clamp(ceil_div(band.end + w_.padding_h, w_.stride_h), 0, g_.pooled_height)};
  }

  // Calls f(element, named, offset) for the elements of pooled row `oh`, whose codes start at `codes`: one byte each,
  // or as they are packed if they are wider. If `named`, the switch names a pixel in full rows `band`, `offset`
  // elements after the first of these; else `offset` has no meaning. Pixels are visited in ascending order of columns,
  // or in descending order.
  template <bool kDescending = false, class F>
  SEGEXT_INLINE void for_each(const uint8_t* codes, int64_t oh, Range band, F&& f) const {
    if (g_.bits > kMaxByteBits) {
      const int64_t last = w_.kernel_h * w_.kernel_w - 1;  // farther taps could be farther than 64 bits count
      for_each<kDescending>(
          oh, band, f,
          [&](int64_t e) SEGEXT_LAMBDA_INLINE {
            // With constants, loads of whole codes.
            return g_.bits == 16 ? load_code(codes, e, 16) : load_code(codes, e, 32);
          },
          [&](uint32_t code) SEGEXT_LAMBDA_INLINE { return computed_tap(smaller(code, last)); });
    } else {
      for_each<kDescending>(
          oh, band, f, [&](int64_t e) SEGEXT_LAMBDA_INLINE { return uint32_t{codes[e]}; },
          [&](uint32_t code) SEGEXT_LAMBDA_INLINE { return taps_[code]; });
    }
  }

 private:
  // Where a tap is, counted from the first of its window: so many columns, and so many elements, after it.
  struct Tap {
    int64_t column, offset;
  };

  SEGEXT_INLINE Tap computed_tap(int64_t code) const {
    const int64_t i = static_cast<uint32_t>(code) / static_cast<uint32_t>(w_.kernel_w), j = code - i * w_.kernel_w;
    return {j * w_.dilation_w, i * w_.dilation_h * rows_.row + j * w_.dilation_w * rows_.depth};
  }

  template <bool kDescending, class F, class Code, class TapOf>
  SEGEXT_INLINE void for_each(int64_t oh, Range band, F&& f, Code&& code_of, TapOf&& tap_of) const {
    // Codes ascend with the rows of the window, so those that name a tap in the band are a range.
    const int64_t top = oh * w_.stride_h - w_.padding_h - band.begin;
    const Range inside = taps_inside(top, w_.kernel_h, w_.dilation_h, band.end - band.begin);
    const auto first = static_cast<uint32_t>(inside.begin * w_.kernel_w);
    const uint32_t taps = inside.empty() ? 0 : static_cast<uint32_t>(inside.end * w_.kernel_w) - first;
    const int64_t depth = rows_.depth, width = g_.width, stride = w_.stride_w, columns = g_.pooled_width;
    const auto pixel = [&](int64_t ow, int64_t count) SEGEXT_LAMBDA_INLINE {
      const int64_t left = ow * stride - w_.padding_w, corner = top * rows_.row + left * depth;
      for (int64_t c = 0; c < count; ++c) {
        const int64_t e = ow * depth + c;
        const uint32_t code = code_of(e);
        const Tap tap = tap_of(code);
        const bool named =
            (code - first < taps) & (static_cast<uint64_t>(left + tap.column) < static_cast<uint64_t>(width));
        f(e, named, corner + tap.offset + c);
      }
    };
    const auto pixels = [&](auto count) SEGEXT_LAMBDA_INLINE {
      for (int64_t k = 0; k < columns; ++k) pixel(kDescending ? columns - 1 - k : k, count);
    };
    if (depth == 1) {
      pixels(std::integral_constant<int64_t, 1>{});
    } else {
      pixels(depth);
    }
  }

  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  Tap taps_[1 << kMaxByteBits]{};  // by code
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
