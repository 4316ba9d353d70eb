// Finds, where windows overlap, the pooled elements that keep their pixel.
#pragma once

#include <vector>

#include "codes.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Pooled rows of codes, one byte each, with kLost in place of the code of each element that loses its pixel: the switch
// of a later window names the same pixel.
//
// Two windows share a pixel if the pixel's taps in them are as far apart as the windows are. To compare distances, each
// code is replaced by its tap's place in a grid whose lines are so long that the difference of two places determines
// both rows and columns between them. Then every later window that reaches this one costs a subtraction and a
// comparison:
//
//   codes   0 1 2    places   0  1  2  .  .    The window two pixels to the right has its tap (i, j) where this one has
//           3 4 5             5  6  7  .  .    its tap (i, j + 2): they name the same pixel if and only if the places
//           6 7 8            10 11 12  .  .    differ by 2. (Codes also do between taps (0, 2) and (1, 1) of 2x3.)
//
// Rows end with a gap of kNowhere, as long as any window reaches, and so do planes. Thus all rows are a single run of
// elements that needs no checks for edges.
class WinnerRows {
 public:
  // Comparing with every window in reach is not worth it for large windows.
  static SEGEXT_INLINE bool suits(const PoolGeometry& g) {
    return g.bits <= kMaxByteBits && g.window.kernel_h * g.window.kernel_w <= kMostTaps;
  }

  WinnerRows(const PoolGeometry& g, const uint8_t* codes) : g_(g), rows_(g), unpacked_(g, codes) {
    int64_t aside = 0;  // columns between two windows that share a pixel, at most
    for_each_rival([&](int64_t down, int64_t right, int64_t) {
      below_ = larger(below_, down);
      aside = larger(aside, larger(right, -right));
    });
    gap_ = aside * rows_.depth;
    pitch_ = rows_.pooled_row + gap_;
    for_each_rival([&](int64_t down, int64_t right, int64_t places) {
      rivals_.push_back({down * pitch_ + right * rows_.depth, static_cast<uint8_t>(places)});
    });
  }

  // Row `row`, counted over all planes; it is row `oh` of its plane.
  SEGEXT_INLINE const uint8_t* row(int64_t row, int64_t oh) {
    if (row < begin_ || row >= end_) mark(row, oh);
    return codes_.data() + (row - begin_) * pitch_;
  }

 private:
  // With so few taps, neither is kLost a code, nor is any difference between kNowhere and a place, or between places
  // outside the grid, one between taps.
  static constexpr int64_t kMostTaps = 36;
  static constexpr uint8_t kLost = 0xff, kNowhere = 0xa0;

  // Elements that are marked together: they stay in the first-level cache. Each time, the rows below them are read too.
  static constexpr int64_t kElements = 4096, kFewestRows = 4;

  // A later window that shares pixels with a window: where its codes are, counted from the other's, and how many places
  // a shared pixel's tap in it is before that in the other.
  struct Rival {
    int64_t offset;
    uint8_t places;
  };

  // Places in a line of the grid.
  int64_t line() const { return 2 * g_.window.kernel_w - 1; }

  // Calls f(down, right, places) for all later windows that share pixels with a window: those so many rows below it and
  // so many columns to its right, or to its left if negative.
  template <class F>
  void for_each_rival(F&& f) const {
    const Window& w = g_.window;
    for (int64_t i = 0; i < w.kernel_h; ++i) {
      for (int64_t j = i == 0 ? 1 : 1 - w.kernel_w; j < w.kernel_w; ++j) {
        const int64_t y = i * w.dilation_h, x = j * w.dilation_w, down = y / w.stride_h, right = x / w.stride_w;
        if (down * w.stride_h != y || right * w.stride_w != x) continue;
        if (down < g_.pooled_height && larger(right, -right) < g_.pooled_width) f(down, right, i * line() + j);
      }
    }
  }

  // Makes row `first` ready, which is row `oh` of its plane, and some that follow.
  void mark(int64_t first, int64_t oh) {
    const int64_t left = g_.pooled_height - oh;
    const int64_t count = smaller(left, larger(kElements / pitch_, larger(kFewestRows, below_)));
    const int64_t read = smaller(left, count + below_), size = (count + below_) * pitch_ + gap_;
    unpacked_.make_ready(first, first + read - 1);
    codes_.reserve(size);
    places_.reserve(size);
    for (int64_t k = 0; k < read; ++k) place(unpacked_[first + k], k * pitch_);
    std::memset(places_.data() + read * pitch_, kNowhere, size - read * pitch_);
    mark_losers(count * pitch_);
    begin_ = first;
    end_ = first + count;
  }

  // Copies a row of codes and their places to element `to` of the run, and the gap after them.
  void place(const uint8_t* row, int64_t to) {
    uint8_t* const codes = codes_.data() + to;
    uint8_t* const places = places_.data() + to;
    const int64_t elements = rows_.pooled_row, kernel_h = g_.window.kernel_h, kernel_w = g_.window.kernel_w;
    const Vec<uint8_t> taps = broadcast(static_cast<uint8_t>(kernel_h * kernel_w));
    const Vec<uint8_t> longer = broadcast(static_cast<uint8_t>(line() - kernel_w));
    // Whole vectors, for what they write past the row is overwritten: by the gap, and by the next row.
    for (int64_t e = 0; e < elements; e += kLanes<uint8_t>) {
      const Vec<uint8_t> code = load(row + e);
      Vec<uint8_t> place = code;
      for (int64_t i = 1; i < kernel_h; ++i) {
        place += code >= broadcast(static_cast<uint8_t>(i * kernel_w)) ? longer : Vec<uint8_t>{};
      }
      store(codes + e, code);
      store(places + e, code < taps ? place : broadcast(kNowhere));
    }
    for (int64_t e = 0; e < gap_; e += kLanes<uint8_t>) store(places + elements + e, broadcast(kNowhere));
  }

  void mark_losers(int64_t elements) {
    uint8_t* const codes = codes_.data();
    const uint8_t* const places = places_.data();
    const Rival *const first = rivals_.data(), *const last = first + rivals_.size();
    for (int64_t e = 0; e < elements; e += kLanes<uint8_t>) {
      const Vec<uint8_t> place = load(places + e);
      Vec<uint8_t> lost{};
      for (const Rival* rival = first; rival != last; ++rival) {
        const Vec<uint8_t> places_before = place - load(places + e + rival->offset);
        lost |= reinterpret_cast<Vec<uint8_t>>(places_before == broadcast(rival->places));
      }
      store(codes + e, load(codes + e) | lost);
    }
  }

  const PoolGeometry& g_;
  const Rows rows_;
  UnpackedRows unpacked_;
  std::vector<Rival> rivals_;
  int64_t below_ = 0;            // rows between two windows that share a pixel, at most
  int64_t gap_, pitch_;          // elements from the end of a row to the next, and from its start
  int64_t begin_ = 0, end_ = 0;  // rows that are ready
  Buffer<uint8_t> codes_, places_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
