// Splits rows that vectors cannot process efficiently in place (pixels of few channels, lines of few columns) into runs
// that they can, and reassembles them.
//
// A row is a sequence of groups of elements; group k belongs to phase k % stride:
//
//   row        a0 a1 | b0 b1 | a2 a3 | b2 b3        groups of two elements, stride 2
//   phases     a0 a1 a2 a3 ..   b0 b1 b2 b3 ..
//
// A channels_last pixel is a group of `channels` elements: a phase holds, side by side, what neighbouring windows read
// at one tap. An NCHW line is a group of `width` elements: a phase holds, end to end, the same window row of several
// pooled rows.
#pragma once

#include "buffer.h"
#include "rows.h"
#include "simd.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The longest group worth moving to phases, in bytes: longer groups fill vectors by themselves.
inline constexpr int64_t kLongestGroup = 128;

// The largest stride worth splitting by: beyond it, most pixels belong to no window.
inline constexpr int64_t kLargestStride = 8;

// Scratch of about this many bytes stays in the first-level cache.
inline constexpr int64_t kScratchBytes = 16384;

template <class T>
inline constexpr int64_t kBytesOf = static_cast<int64_t>(sizeof(T));

// The phases of a row, in scratch memory.
template <class T>
class Phases {
 public:
  // Room for `phases` phases of `size` elements each, and for kLongestGroup bytes past the end of each.
  T* reserve(int64_t phases, int64_t size) {
    pitch_ = (size * kBytesOf<T> + kLongestGroup + 63) / 64 * 64 / kBytesOf<T>;
    data_ = buffer_.reserve(phases * pitch_);
    return data_;
  }
  T* operator[](int64_t phase) const { return data_ + phase * pitch_; }
  int64_t pitch() const { return pitch_; }

  // Copies the `groups` groups of `row`, of `size` elements each, to the `stride` phases from `first` on.
  void split(const T* row, int64_t groups, int64_t size, int64_t stride, int64_t first = 0) {
    const int64_t done = picks(size, stride) ? split_pairs(row, groups, size, first) : 0, at = done / 2 * size;
    row += done * size;
    move(groups - done, size, stride, [&](int64_t k, int64_t p, int64_t offset, auto bytes) SEGEXT_LAMBDA_INLINE {
      std::memcpy((*this)[first + p] + at + offset, row + k * size, bytes);
    });
  }

  // The inverse of split. Writes nothing past the row.
  void join(T* row, int64_t groups, int64_t size, int64_t stride) {
    const int64_t done = picks(size, stride) ? join_pairs(row, groups, size) : 0, at = done / 2 * size;
    row += done * size;
    move(groups - done, size, stride, [&](int64_t k, int64_t p, int64_t offset, auto bytes) SEGEXT_LAMBDA_INLINE {
      std::memcpy(row + k * size, (*this)[p] + at + offset, bytes);
    });
  }

 private:
  static constexpr int64_t kN = kLanes<T>;

  // True where vectors hold several groups of each of two phases, so that it pays to pick their lanes. The numbers of
  // the lanes are then ready:
  //
  //   row     two vectors     a0 a1 a2 b0 b1 b2 a3 a4 a5 b3 b4 ..     groups of three elements
  //   phases  a vector each   a0 a1 a2 a3 a4 a5 ..   b0 b1 b2 b3 ..
  bool picks(int64_t size, int64_t stride) {
    if (!kPicksLanes || sizeof(T) == 1 || stride != 2 || 2 * size > kN) return false;
    if (size == numbered_) return true;
    numbered_ = size;
    for (int64_t k = 0; k < kN; ++k) split_numbers_[k] = static_cast<Int<T>>(k / size * 2 * size + k % size);
    for (int64_t k = 0; k < 2 * kN; ++k) {
      const int64_t group = k / size;
      join_numbers_[k] = static_cast<Int<T>>(group % 2 * kN + group / 2 * size + k % size);
    }
    return true;
  }

  // These split or join as many groups as can be accessed in pairs of vectors within the row, and return their number.
  // What a vector holds past its groups is overwritten by the next, or lies in slack.
  int64_t split_pairs(const T* row, int64_t groups, int64_t size, int64_t first) const {
    const Vec<Int<T>> numbers = load(split_numbers_), others = numbers + static_cast<Int<T>>(size);
    const int64_t whole = kN / size;
    T *a = (*this)[first], *b = (*this)[first + 1];
    int64_t k = 0;
    for (; (groups - k) * size >= 2 * kN; k += 2 * whole, a += whole * size, b += whole * size) {
      const Vec<T> low = load(row + k * size), high = load(row + k * size + kN);
      store(a, pick_lanes<T>(low, high, numbers));
      store(b, pick_lanes<T>(low, high, others));
    }
    return k;
  }

  int64_t join_pairs(T* row, int64_t groups, int64_t size) const {
    const Vec<Int<T>> low = load(join_numbers_), high = load(join_numbers_ + kN);
    const int64_t whole = kN / size;
    const T *a = (*this)[0], *b = (*this)[1];
    int64_t k = 0;
    for (; (groups - k) * size >= 2 * kN; k += 2 * whole, a += whole * size, b += whole * size) {
      const Vec<T> first = load(a), second = load(b);
      store(row + k * size, pick_lanes<T>(first, second, low));
      store(row + k * size + kN, pick_lanes<T>(first, second, high));
    }
    return k;
  }

  // Calls copy(group, phase, offset in the phase, bytes) for the groups in ascending order. `bytes` is a compile-time
  // constant that may reach past the group, into what a later copy overwrites or into slack, but never past the row:
  // the last groups are copied with their exact size.
  template <class F>
  static SEGEXT_INLINE void move(int64_t groups, int64_t size, int64_t stride, F&& copy) {
    const int64_t bytes = size * kBytesOf<T>;
    const auto in_blocks_of = [&](auto block) SEGEXT_LAMBDA_INLINE {
      const int64_t blocks = groups * bytes < block() ? 0 : (groups * bytes - block()) / bytes + 1;
      int64_t k = 0, offset = 0;
      for (; k + stride <= blocks; k += stride, offset += size) {
        for (int64_t p = 0; p < stride; ++p) copy(k + p, p, offset, block);
      }
      for (int64_t p = 0; k < groups; ++k) {
        copy(k, p, offset, bytes);
        if (++p == stride) {
          p = 0;
          offset += size;
        }
      }
    };
    if (bytes <= 8) return in_blocks_of(std::integral_constant<int64_t, 8>{});
    if (bytes <= 16) return in_blocks_of(std::integral_constant<int64_t, 16>{});
    if (bytes <= 32) return in_blocks_of(std::integral_constant<int64_t, 32>{});
    if (bytes <= 64) return in_blocks_of(std::integral_constant<int64_t, 64>{});
    in_blocks_of(std::integral_constant<int64_t, kLongestGroup>{});
  }

  Buffer<T> buffer_;
  T* data_ = nullptr;
  int64_t pitch_ = 0;
  int64_t numbered_ = 0;  // size of the groups that the numbers are of
  Int<T> split_numbers_[kN], join_numbers_[2 * kN];
};

// True where groups of `size` elements are short enough to split, and would leave more than a quarter of the lanes of
// their vectors empty.
template <class T>
SEGEXT_INLINE bool wastes_vectors(int64_t size) {
  return size * kBytesOf<T> <= kLongestGroup && 4 * size < 3 * ceil_div(size, kLanes<T>) * kLanes<T>;
}

// True for channels_last maps whose pixels are too short for vectors, so that they are better processed as runs (see
// TapRows).
template <class T>
SEGEXT_INLINE bool packs_pixels(const PoolGeometry& g) {
  return g.channels_last && g.window.stride_w <= kLargestStride && wastes_vectors<T>(g.channels);
}

// True for NCHW windows that tile the map: 2x2 or 3x3, side by side from its top left corner on. The last window of a
// row or of a column may reach past the edge.
SEGEXT_INLINE bool tiles_map(const PoolGeometry& g) {
  const Window& w = g.window;
  const int64_t size = w.kernel_h;
  return !g.channels_last && (size == 2 || size == 3) && w.kernel_w == size && w.stride_h == size &&
         w.stride_w == size && w.padding_h == 0 && w.padding_w == 0 && w.dilation_h == 1 && w.dilation_w == 1;
}

// True for tiled maps without leftover columns whose lines are short enough to join end to end.
template <class T>
SEGEXT_INLINE bool can_merge_rows(const PoolGeometry& g) {
  return tiles_map(g) && g.width == g.pooled_width * g.window.kernel_w && g.width * kBytesOf<T> <= kLongestGroup;
}

// Whether that pays where the lines are read.
template <class T>
SEGEXT_INLINE bool merges_rows_read(const PoolGeometry& g) {
  return can_merge_rows<T>(g) && wastes_vectors<T>(g.pooled_width);
}

// Whether it pays where the lines are written. Without masks, lines that fill no vector are slow to write by
// themselves, however little is missing.
template <class T>
SEGEXT_INLINE bool merges_rows_written(const PoolGeometry& g) {
  const bool slow = !kMasksLanes && g.pooled_width < kLanes<T>;
  return can_merge_rows<T>(g) && (slow || wastes_vectors<T>(g.pooled_width));
}

// How many pooled rows to merge into one, from `row` up to `end`; `row` is row `oh` of its plane. Leaves out pooled
// rows whose windows reach past the last line of the plane.
template <class T>
SEGEXT_INLINE int64_t rows_to_merge(const PoolGeometry& g, int64_t row, int64_t oh, int64_t end) {
  const int64_t fit = kScratchBytes / (g.window.kernel_h * g.width * kBytesOf<T>);
  // Rows can be merged across planes only if the windows leave no line over at the end of a plane.
  const bool gapless = g.height == g.pooled_height * g.window.kernel_h;
  const int64_t whole = smaller(g.pooled_height, g.height / g.window.kernel_h);
  return smaller(fit, gapless ? end - row : smaller(end - row, whole - oh));
}

// What a run of channels_last windows reads at one tap: element e of `row` is the input of element e of the pooled run.
template <class T>
struct TapRow {
  const T* row;
  int64_t code;
};

// The taps of channels_last windows, one row per tap.
template <class T>
class TapRows {
 public:
  // Divides the pooled columns `columns` into parts and calls f(part, taps, number of taps) for each. The windows of
  // these columns must have all their columns inside the map. `inside` is the range of window rows inside the map;
  // window row 0 is row `top` of the map.
  template <class F>
  SEGEXT_INLINE void for_each_part(const PoolGeometry& g, const T* plane, int64_t top, Range inside, Range columns,
                                   F&& f) {
    const Window& w = g.window;
    const int64_t fit = kScratchBytes / (w.kernel_h * w.stride_w * g.channels * kBytesOf<T>);
    const int64_t most = fit > kFewestColumns ? fit : kFewestColumns;
    for (int64_t j = columns.begin; j < columns.end; j += most) {
      const Range part{j, j + most < columns.end ? j + most : columns.end};
      f(part, taps_, collect(g, plane, top, inside, part));
    }
  }

 private:
  static constexpr int64_t kFewestColumns = 16;
  static constexpr int kMostTaps = 256;

  int collect(const PoolGeometry& g, const T* plane, int64_t top, Range inside, Range columns) {
    const Window& w = g.window;
    const int64_t first = columns.begin * w.stride_w - w.padding_w;
    const int64_t pixels = (columns.end - columns.begin - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1;
    const bool apart = w.stride_w > 1;
    if (apart) {
      phases_.reserve((inside.end - inside.begin) * w.stride_w, ceil_div(pixels, w.stride_w) * g.channels);
    }
    int count = 0;
    for (int64_t i = inside.begin, phase = 0; i < inside.end; ++i, phase += w.stride_w) {
      const T* line = plane + ((top + i * w.dilation_h) * g.width + first) * g.channels;
      if (apart) phases_.split(line, pixels, g.channels, w.stride_w, phase);
      for (int64_t t = 0, x = 0; t < w.kernel_w; ++t, x += w.dilation_w) {
        const T* row = apart ? phases_[phase + x % w.stride_w] + x / w.stride_w * g.channels : line + x * g.channels;
        taps_[count++] = {row, i * w.kernel_w + t};
      }
    }
    return count;
  }

  TapRow<T> taps_[kMostTaps];
  Phases<T> phases_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
