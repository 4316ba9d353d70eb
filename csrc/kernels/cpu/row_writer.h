// Writes one full row of a scatter from the pooled rows whose windows reach it.
#pragma once

#include "codes.h"
#include "map_writer.h"
#include "phases.h"
#include "rows.h"
#include "strided.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// A pooled row as the source of one full row: the full row is row `i` of its windows.
template <class T>
struct Source {
  const T* values;
  const uint8_t* codes;  // one byte each
  int64_t first_tap;     // code of the window's row i, column 0
};

// Writes full rows from their sources. T is the type that is moved: the raw bits of an element or, with kSum, the type
// of the sum.
template <class T, bool kSum>
class RowWriter {
  using Lane = Int<T>;

 public:
  explicit RowWriter(const PoolGeometry& g) : g_(g), w_(g.window), rows_(g), packs_(packs_pixels<T>(g)) {
    if (packs_) find_blocks();
    if (!g.channels_last && has_strided_path(g) && w_.kernel_h * w_.kernel_w <= kNoTap) find_columns();
  }

  // Elements before and after each pooled row that `write` reads and that belong to none of its windows. There, codes
  // must be kNoTap; values do not matter.
  int64_t gap() const { return gap_; }

  // Not inlined, so that the half types share one copy.
  __attribute__((noinline)) void write(const Source<T>* sources, int count, T* row) {
    if (count == 0) {
      std::memset(row, 0, rows_.row * sizeof(T));
    } else if (columns_[0] != nullptr) {
      (this->*columns_[count == 2])(sources, count, row);
    } else if (packs_ && !blocks_.empty()) {
      pixels(sources, count, {0, first_column()}, row);
      packed_pixels(sources, count, row);
      pixels(sources, count, {end_column(), g_.width}, row);
    } else {
      pixels(sources, count, {0, g_.width}, row);
    }
  }

  // Writes a channels_last row for windows that share no pixel, so that it has at most one source; null if it has none.
  // Commits one pixel at a time: a row of many channels is larger than the cache in which `map` stages it.
  void write_pixels(const Source<T>* source, MapWriter<T>& map) const {
    int64_t next = 0;  // first column not yet written
    const auto zero_until = [&](int64_t x) {
      for (; next < x; ++next) {
        std::memset(map.next(), 0, rows_.depth * sizeof(T));
        map.commit(rows_.depth);
      }
    };
    for (int64_t ow = 0; source != nullptr && ow < g_.pooled_width; ++ow) {
      int64_t x = ow * w_.stride_w - w_.padding_w;
      for (int64_t t = 0; t < w_.kernel_w && x < g_.width; ++t, x += w_.dilation_w) {
        if (x < 0) continue;
        zero_until(x);
        pixel(*source, ow, source->first_tap + t, map.next());
        map.commit(rows_.depth);
        ++next;
      }
    }
    zero_until(g_.width);
  }

 private:
  template <class V, class M>
  static SEGEXT_INLINE V combine(V so_far, M named, V v) {
    if constexpr (kSum) {
      return named ? so_far + v : so_far;
    } else {
      return named ? v : so_far;
    }
  }

  // The pooled columns j for which windows j - reach to j all exist, and whose stride_w full columns all lie in the
  // map.
  void find_blocks() {
    const int64_t reach = (w_.kernel_w - 1) * w_.dilation_w / w_.stride_w;
    const int64_t covered = (g_.width + w_.padding_w) / w_.stride_w;
    blocks_ = {larger(ceil_div(w_.padding_w, w_.stride_w), reach), smaller(covered, g_.pooled_width)};
    if (blocks_.empty()) blocks_.end = blocks_.begin;
  }

  // The first full column that the blocks cover, and the end of that range.
  int64_t first_column() const { return blocks_.begin * w_.stride_w - w_.padding_w; }
  int64_t end_column() const { return blocks_.end * w_.stride_w - w_.padding_w; }

  // Finds the function that writes NCHW columns, and how far it reads past both ends of a pooled row.
  void find_columns() {
    with_strided_window(w_, {0, w_.kernel_h}, [&](auto stride, auto kernel) {
      constexpr int kStride = stride(), kKernel = kernel();
      const int64_t last = (g_.width - 1) / kStride;
      for (int64_t p = 0; p < kStride; ++p) {
        const Taps taps = taps_of(p, kStride, w_.kernel_w, w_.padding_w);
        const int64_t before = (taps.count - 1) * w_.dilation_w - taps.ahead;
        gap_ = larger(gap_, larger(before, last + taps.ahead - (g_.pooled_width - 1)));
      }
      if constexpr (kKernel == kAnyKernel) {
        columns_[0] = columns_[1] = &RowWriter::columns<kStride, kKernel, 0, 0>;
      } else {
        // A full row has at most this many sources, so the loops over them are unrolled too.
        constexpr int kMost = (kKernel + kStride - 1) / kStride;
        if (w_.padding_w == 0) {
          columns_[0] = &RowWriter::columns<kStride, kKernel, 0, 1>;
          columns_[1] = &RowWriter::columns<kStride, kKernel, 0, kMost>;
        } else {
          columns_[0] = &RowWriter::columns<kStride, kKernel, 1, 1>;
          columns_[1] = &RowWriter::columns<kStride, kKernel, 1, kMost>;
        }
      }
    });
  }

  // The taps that fall on NCHW column stride * m + p, for any m: taps first, first + stride and so on, of windows
  // m + ahead, a dilation before it, and so on. (Only windows of stride 1 are dilated.)
  struct Taps {
    int64_t first, count, ahead;
  };
  static SEGEXT_INLINE Taps taps_of(int64_t p, int64_t stride, int64_t kernel, int64_t padding) {
    if (stride == 1) return {0, kernel, padding};
    const int64_t first = (p + padding) % stride;
    return {first, (kernel - 1 - first) / stride + 1, (p + padding) / stride};
  }

  // Writes an NCHW row: Stride phases of columns, interleaved. Windows that the map's sides cut off need no special
  // case, for no code in a row's gap names a tap. Unless Kernel is kAnyKernel, Padding is that of the window. Later
  // taps belong to earlier windows, so the loop over taps descends.
  template <int Stride, int Kernel, int Padding, int Count>
  void columns(const Source<T>* sources, int some, T* row) const {
    const int count = Count ? Count : some;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w, dilation_w = Kernel ? 1 : w_.dilation_w;
    const int64_t padding_w = Kernel ? Padding : w_.padding_w;
    // Local copies: as far as the compiler knows, the stores below could change the originals, which it would then read
    // again for every vector. Members are copied one by one: reading a whole source would wait for its members' stores.
    const int64_t width = g_.width;
    Source<T> copies[Count ? Count : 1];
    for (int s = 0; s < Count; ++s) {
      copies[s].values = sources[s].values;
      copies[s].codes = sources[s].codes;
      copies[s].first_tap = sources[s].first_tap;
    }
    const auto block = [&](int64_t m, auto loaded, auto stored) SEGEXT_LAMBDA_INLINE {
      Vec<T> phase[Stride] = {};
#pragma GCC unroll 2
      for (int s = 0; s < count; ++s) {
        const Source<T>& source = Count ? copies[s] : sources[s];
#pragma GCC unroll 3
        for (int p = 0; p < Stride; ++p) {
          const Taps taps = taps_of(p, Stride, kernel_w, padding_w);
#pragma GCC unroll 3
          for (int64_t k = taps.count - 1; k >= 0; --k) {
            const int64_t element = m + taps.ahead - k * dilation_w;
            const Vec<T> v = loaded.load_lanes(source.values + element, 0, 1);
            const auto tap = broadcast(static_cast<Lane>(source.first_tap + taps.first + k * Stride));
            phase[p] = combine(phase[p], widen_codes<T>(source.codes + element) == tap, v);
          }
        }
      }
      store_interleaved<Stride>(stored, phase, row + m * Stride);
    };
    int64_t m = 0;
    for (; (m + kLanes<T>)*Stride <= width; m += kLanes<T>) block(m, AllLanes{}, AllLanes{});
    const int64_t left = width - m * Stride;
    if (left > 0) block(m, FirstLanes{(left + Stride - 1) / Stride}, FirstPixels{left});
  }

  // Calls f(pooled column, tap) for each window that has a tap at column x, in ascending order of windows.
  template <class F>
  SEGEXT_INLINE void for_each_window(int64_t x, F&& f) const {
    const int64_t reach = (w_.kernel_w - 1) * w_.dilation_w;
    int64_t ow = clamp(ceil_div(x + w_.padding_w - reach, w_.stride_w), 0, g_.pooled_width);
    for (; ow < g_.pooled_width; ++ow) {
      const int64_t offset = x + w_.padding_w - ow * w_.stride_w;
      if (offset < 0) return;
      const int64_t t = quick_div(offset, w_.dilation_w);
      if (t * w_.dilation_w == offset) f(ow, t);
    }
  }

  // Writes all channels of one channels_last pixel. Only pooled pixel ow can name it, by code `tap`.
  SEGEXT_INLINE void pixel(const Source<T>& source, int64_t ow, int64_t tap, T* out) const {
    const T* values = source.values + ow * rows_.depth;
    const uint8_t* codes = source.codes + ow * rows_.depth;
    const auto lane_tap = broadcast(static_cast<Lane>(tap));
    cover_with_blocks<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> v = combine(Vec<T>{}, widen_codes<T>(codes + c) == lane_tap, lanes.load_lanes(values + c, 0, 1));
      lanes.store_lanes(out + c, v, 0, 1);
    });
  }

  // A pooled pixel that may name the current pixel, by code `tap`.
  struct Candidate {
    const T* values;
    const uint8_t* codes;
    Lane tap;
  };

  template <class Lanes>
  SEGEXT_INLINE Vec<T> combined(const Candidate* candidates, int count, int64_t element, Lanes lanes) const {
    Vec<T> v{};
    for (int k = 0; k < count; ++k) {
      const Candidate& from = candidates[k];
      v = combine(v, widen_codes<T>(from.codes + element) == broadcast(from.tap),
                  lanes.load_lanes(from.values + element, 0, 1));
    }
    return v;
  }

  // Writes the pixels of a range of columns, one at a time. Works for any window, in both formats.
  void pixels(const Source<T>* sources, int count, Range columns, T* row) const {
    Candidate candidates[1 << kMaxByteBits];
    for (int64_t x = columns.begin; x < columns.end; ++x) {
      int found = 0;
      for (int s = 0; s < count; ++s) {
        for_each_window(x, [&](int64_t ow, int64_t t) {
          candidates[found++] = {sources[s].values + ow * rows_.depth, sources[s].codes + ow * rows_.depth,
                                 static_cast<Lane>(sources[s].first_tap + t)};
        });
      }
      T* out = row + x * rows_.depth;
      if (rows_.depth == 1) {
        *out = 0;
        for (int k = 0; k < found; ++k) {
          *out = combine(*out, *candidates[k].codes == candidates[k].tap, *candidates[k].values);
        }
        continue;
      }
      cover_with_blocks<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
        lanes.store_lanes(out + c, combined(candidates, found, c, lanes), 0, 1);
      });
    }
  }

  // Writes the channels_last columns of the blocks where pixels have few channels: phase p is as in `columns`, with all
  // channels of a column side by side.
  void packed_pixels(const Source<T>* sources, int count, T* row) {
    const int64_t stride = w_.stride_w;
    const int64_t fit = larger(kScratchBytes / (stride * rows_.depth * kBytesOf<T>), 1);
    Candidate candidates[1 << kMaxByteBits];
    for (int64_t j = blocks_.begin; j < blocks_.end; j += fit) {
      const int64_t columns = j + fit < blocks_.end ? fit : blocks_.end - j, elements = columns * rows_.depth;
      T* out = row + (j * stride - w_.padding_w) * rows_.depth;
      if (stride > 1) phases_.reserve(stride, elements);
      for (int64_t p = 0; p < stride; ++p) {
        int found = 0;
        for (int s = 0; s < count; ++s) {
          for (int64_t t = w_.kernel_w - 1; t >= 0; --t) {
            const int64_t offset = t * w_.dilation_w - p;
            if (offset < 0 || offset % stride != 0) continue;
            const int64_t element = (j - offset / stride) * rows_.depth;
            candidates[found++] = {sources[s].values + element, sources[s].codes + element,
                                   static_cast<Lane>(sources[s].first_tap + t)};
          }
        }
        T* phase = stride > 1 ? phases_[p] : out;
        cover_with_blocks<T>({0, elements}, [&](int64_t e, auto lanes) SEGEXT_LAMBDA_INLINE {
          lanes.store_lanes(phase + e, combined(candidates, found, e, lanes), 0, 1);
        });
      }
      if (stride > 1) phases_.join(out, columns * stride, rows_.depth, stride);
    }
  }

  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const bool packs_;    // see packs_pixels
  Range blocks_{0, 0};  // of pooled columns, where packs_
  using Columns = void (RowWriter::*)(const Source<T>*, int, T*) const;
  Columns columns_[2]{};  // [1] for two sources, [0] for any other number; null where `pixels` writes NCHW rows
  int64_t gap_ = 0;
  Phases<T> phases_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
