// Scatter: writes the full map a row at a time, each row from the few pooled rows whose windows reach it.
//
// A full row is written once, front to back, whatever the windows; so rows are independent, no result depends on how
// threads split them, and large maps can be written around the caches. The pooled rows it needs are unpacked to a byte
// a code (and masked or widened where asked) in scratch that stays in the first-level cache and serves the next row
// too.
#include "../scatter.h"

#include "buffer.h"
#include "codes.h"
#include "rows.h"
#include "strided.h"
#include "values.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// A pooled row as one full row sees it: the full row is row `i` of its windows.
template <class T>
struct Source {
  const T* values;
  const uint8_t* codes;  // a byte each
  int64_t first_tap;     // code of the window's row i, column 0
};

// Stores vector `part` of the `stride` that a block of pooled columns becomes.
template <bool kStream, class T, class Lanes>
SEGEXT_INLINE void put(Lanes lanes, T* out, Vec<T> v, int part, int stride) {
  if constexpr (kStream && std::is_same_v<Lanes, AllLanes>) {
    store_stream(out, v);
  } else {
    lanes.store_lanes(out, v, part, stride);
  }
}

// Writes full rows from sources. T is what moves: the raw bits of an element, or the type of the sum.
template <class T, bool kSum>
class RowWriter {
  using Lane = Int<T>;
  static constexpr int kN = kLanes<T>;

 public:
  RowWriter(const PoolGeometry& g, bool stream) : g_(g), w_(g.window), rows_(g), stream_(stream) {
    // Columns that a whole block of pooled columns covers with all its taps inside the pooled row.
    const int64_t reach = (w_.kernel_w - 1) / w_.stride_w * w_.dilation_w;
    const int64_t covered = (g.width + w_.padding_w) / w_.stride_w;
    const int64_t first = ceil_div(w_.padding_w, w_.stride_w);
    blocks_ = {first > reach ? first : reach, covered < g.pooled_width ? covered : g.pooled_width};
    if (!has_strided_path(g)) blocks_.end = blocks_.begin;
  }

  // Not inlined: half types share it.
  __attribute__((noinline)) void write(const Source<T>* sources, int count, T* row) const {
    if (count == 0) {
      std::memset(row, 0, rows_.row * sizeof(T));
    } else if (g_.channels_last) {
      if (streams(row) && rows_.depth % kN == 0) {
        pixels<true>(sources, count, row);
      } else {
        pixels<false>(sources, count, row);
      }
    } else if (!blocks_.empty()) {
      const int64_t begin = blocks_.begin * w_.stride_w - w_.padding_w;
      const int64_t end = blocks_.end * w_.stride_w - w_.padding_w;
      for (int64_t x = 0; x < begin; ++x) row[x] = column(sources, count, x);
      with_strided_window(w_, {0, w_.kernel_h}, [&](auto stride, auto kernel) {
        if (streams(row + begin)) {
          columns<stride(), kernel(), true>(sources, count, row);
        } else {
          columns<stride(), kernel(), false>(sources, count, row);
        }
      });
      for (int64_t x = end; x < g_.width; ++x) row[x] = column(sources, count, x);
    } else {
      for (int64_t x = 0; x < g_.width; ++x) row[x] = column(sources, count, x);
    }
  }

 private:
  bool streams(const T* p) const { return stream_ && reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0; }

  template <class V, class M>
  static SEGEXT_INLINE V combine(V so_far, M named, V v) {
    if constexpr (kSum) {
      return named ? so_far + v : so_far;
    } else {
      return named ? v : so_far;
    }
  }

  // The block of NCHW columns, Stride phases of pooled columns interleaved: phase p of pooled column j is the pixel
  // that tap p of window j, tap p + Stride of window j - 1, ... share (at stride 1, windows a dilation apart). Later
  // taps belong to earlier windows.
  template <int Stride, int Kernel, bool kStream>
  SEGEXT_INLINE void columns(const Source<T>* sources, int count, T* row) const {
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w, dilation_w = Kernel ? 1 : w_.dilation_w;
    for_each_block<T>(blocks_, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      Vec<T> phase[Stride] = {};
      for (int s = 0; s < count; ++s) {
        const Source<T>& source = sources[s];
#pragma GCC unroll 3
        for (int p = 0; p < Stride; ++p) {
#pragma GCC unroll 3
          for (int64_t m = (kernel_w - 1 - p) / Stride; m >= 0; --m) {
            const int64_t element = j - m * dilation_w;
            const Vec<T> v = lanes.load_lanes(source.values + element, 0, 1);
            const auto tap = broadcast(static_cast<Lane>(source.first_tap + p + m * Stride));
            phase[p] = combine(phase[p], widen_codes<T>(source.codes + element) == tap, v);
          }
        }
      }
      T* out = row + j * Stride - w_.padding_w;
      [&]<int... Q>(std::integer_sequence<int, Q...>) SEGEXT_LAMBDA_INLINE {
        (..., put<kStream>(lanes, out + Q * kN, interleave<Stride, Q>(phase, LaneSequence<T>{}), Q, Stride));
      }(std::make_integer_sequence<int, Stride>{});
    });
  }

  // Calls f(pooled column, tap) for the windows that have column x, first window first.
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

  // One NCHW column.
  T column(const Source<T>* sources, int count, int64_t x) const {
    T v = 0;
    for (int s = 0; s < count; ++s) {
      for_each_window(x, [&](int64_t ow, int64_t t) {
        v = combine(v, sources[s].codes[ow] == sources[s].first_tap + t, sources[s].values[ow]);
      });
    }
    return v;
  }

  // All channels of one channels_last pixel, which pooled pixel ow names by `tap`, if any does.
  template <bool kStream>
  SEGEXT_INLINE void pixel(const Source<T>& source, int64_t ow, int64_t tap, T* out) const {
    const T* values = source.values + ow * rows_.depth;
    const uint8_t* codes = source.codes + ow * rows_.depth;
    const auto lane_tap = broadcast(static_cast<Lane>(tap));
    for_each_block<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> v = combine(Vec<T>{}, widen_codes<T>(codes + c) == lane_tap, lanes.load_lanes(values + c, 0, 1));
      put<kStream>(lanes, out + c, v, 0, 1);
    });
  }

  // A channels_last row of windows that share no pixel.
  template <bool kStream>
  void disjoint_pixels(const Source<T>& source, T* row) const {
    int64_t next = 0;  // first column not yet written
    const auto zero_until = [&](int64_t x) {
      if (x > next) std::memset(row + next * rows_.depth, 0, (x - next) * rows_.depth * sizeof(T));
    };
    for (int64_t ow = 0; ow < g_.pooled_width; ++ow) {
      int64_t x = ow * w_.stride_w - w_.padding_w;
      for (int64_t t = 0; t < w_.kernel_w && x < g_.width; ++t, x += w_.dilation_w) {
        if (x < 0) continue;
        zero_until(x);
        pixel<kStream>(source, ow, source.first_tap + t, row + x * rows_.depth);
        next = x + 1;
      }
    }
    zero_until(g_.width);
  }

  // A channels_last row of any windows.
  template <bool kStream>
  void shared_pixels(const Source<T>* sources, int count, T* out) const {
    struct Contribution {
      const T* values;
      const uint8_t* codes;
      Lane tap;
    };
    Contribution list[1 << kMaxByteBits];
    for (int64_t x = 0; x < g_.width; ++x, out += rows_.depth) {
      int found = 0;
      for (int s = 0; s < count; ++s) {
        for_each_window(x, [&](int64_t ow, int64_t t) {
          list[found++] = {sources[s].values + ow * rows_.depth, sources[s].codes + ow * rows_.depth,
                           static_cast<Lane>(sources[s].first_tap + t)};
        });
      }
      for_each_block<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
        Vec<T> v{};
        for (int k = 0; k < found; ++k) {
          v = combine(v, widen_codes<T>(list[k].codes + c) == broadcast(list[k].tap),
                      lanes.load_lanes(list[k].values + c, 0, 1));
        }
        put<kStream>(lanes, out + c, v, 0, 1);
      });
    }
  }

  template <bool kStream>
  SEGEXT_INLINE void pixels(const Source<T>* sources, int count, T* row) const {
    if (windows_are_disjoint(w_)) {
      disjoint_pixels<kStream>(sources[0], row);
    } else {
      shared_pixels<kStream>(sources, count, row);
    }
  }

  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const bool stream_;
  Range blocks_;
};

// Scatter over full rows. E is the element type, T what moves (see RowWriter).
template <class E, class T, bool kSum>
class Scatter {
  using Raw = typename E::Raw;
  static constexpr bool kWidens = kSum && !std::is_same_v<Raw, T>;

 public:
  explicit Scatter(const ScatterParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        writer_(g_, p_.stream),
        reach_((w_.kernel_h - 1) * w_.dilation_h) {}

  // Full rows [begin, end), counted over all planes of all samples.
  void run(int64_t begin, int64_t end) {
    if constexpr (!kSum) {
      if (tiles()) {
        const auto run_tiles = [&](auto size) { w_.stride_w == size() ? tiled_rows<size()>(begin, end) : void(); };
        run_tiles(std::integral_constant<int, 2>{});
        run_tiles(std::integral_constant<int, 3>{});
        if (p_.stream) stream_fence();
        return;
      }
    }
    int64_t plane = begin / g_.height, y = begin % g_.height;
    for (int64_t r = begin; r < end; ++r) {
      Raw* out = static_cast<Raw*>(p_.map) + r * rows_.row;
      if constexpr (kWidens) {
        T* sums = sums_.reserve(rows_.row);
        write(plane, y, sums);
        narrow(E{}, sums, rows_.row, out);
      } else {
        write(plane, y, reinterpret_cast<T*>(out));
      }
      if (++y == g_.height) {
        y = 0;
        ++plane;
      }
    }
    if (p_.stream) stream_fence();
  }

 private:
  // True for NCHW windows that tile the map: square, 2x2 or 3x3, side by side, none reaching past an edge.
  bool tiles() const {
    const int64_t size = w_.kernel_h;
    return !g_.channels_last && (size == 2 || size == 3) && w_.kernel_w == size && w_.stride_h == size &&
           w_.stride_w == size && w_.padding_h == 0 && w_.padding_w == 0 && w_.dilation_h == 1 && w_.dilation_w == 1 &&
           g_.pooled_width * size <= g_.width && g_.pooled_height * size <= g_.height;
  }

  // Full rows of windows that tile the map: values and codes are read once for all Size rows that they fill.
  //
  //   pooled   v0   v1        rows 2h, 2h + 1:   [v0 if 0][v0 if 1][v1 if 0][v1 if 1]
  //                                              [v0 if 2][v0 if 3][v1 if 2][v1 if 3]
  template <int Size>
  void tiled_rows(int64_t begin, int64_t end) {
    int64_t plane = begin / g_.height, y = begin % g_.height;
    const int64_t covered = g_.pooled_width * Size, bare = (g_.width - covered) * static_cast<int64_t>(sizeof(T));
    while (begin < end) {
      T* row = static_cast<T*>(p_.map) + begin * g_.width;
      const int64_t oh = y / Size;
      int64_t written = 1;
      if (oh >= g_.pooled_height) {
        std::memset(row, 0, g_.width * sizeof(T));
      } else {
        const int64_t first = y - oh * Size;
        written = Size - first < end - begin ? Size - first : end - begin;
        const int64_t pooled_row = plane * g_.pooled_height + oh;
        unpack(pooled_row, pooled_row);
        const int64_t offset = (pooled_row - first_) * g_.pooled_width;
        // Whole vectors only: ordinary stores between streamed ones cost more than streaming saves.
        const bool stream = p_.stream && reinterpret_cast<uintptr_t>(row) % kVectorBytes == 0 &&
                            g_.width * sizeof(T) % kVectorBytes == 0 && g_.pooled_width % kLanes<T> == 0;
        if (stream) {
          tile_row<Size, true>(values_ + offset, codes_ + offset, first, written, row);
        } else {
          tile_row<Size, false>(values_ + offset, codes_ + offset, first, written, row);
        }
        for (int64_t k = 0; bare > 0 && k < written; ++k) std::memset(row + k * g_.width + covered, 0, bare);
      }
      begin += written;
      y += written;
      if (y == g_.height) {
        y = 0;
        ++plane;
      }
    }
  }

  // Window rows [first, first + count) of one pooled row.
  template <int Size, bool kStream>
  SEGEXT_INLINE void tile_row(const T* values, const uint8_t* codes, int64_t first, int64_t count, T* row) const {
    for_each_block<T>({0, g_.pooled_width}, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> v = lanes.load_lanes(values + j, 0, 1);
      const auto code = widen_codes<T>(codes + j);
      T* out = row + j * Size;
      for (int64_t i = first; i < first + count; ++i, out += g_.width) {
        Vec<T> phase[Size];
        for (int t = 0; t < Size; ++t) {
          phase[t] = code == broadcast(static_cast<Int<T>>(i * Size + t)) ? v : Vec<T>{};
        }
        [&]<int... Q>(std::integer_sequence<int, Q...>) SEGEXT_LAMBDA_INLINE {
          (..., put<kStream>(lanes, out + Q * kLanes<T>, interleave<Size, Q>(phase, LaneSequence<T>{}), Q, Size));
        }(std::make_integer_sequence<int, Size>{});
      }
    });
  }

  void write(int64_t plane, int64_t y, T* out) {
    if (g_.bits > kMaxByteBits) {
      std::memset(out, 0, rows_.row * sizeof(T));
      for_each_window(y, [&](int64_t oh, int64_t i) { add_wide_codes(plane, oh, i, out); });
      return;
    }
    Source<T> sources[1 << kMaxByteBits];
    int64_t pooled_rows[1 << kMaxByteBits];
    int count = 0;
    for_each_window(y, [&](int64_t oh, int64_t i) {
      sources[count].first_tap = i * w_.kernel_w;
      pooled_rows[count++] = plane * g_.pooled_height + oh;
    });
    if (count > 0) unpack(pooled_rows[0], pooled_rows[count - 1]);
    for (int s = 0; s < count; ++s) {
      const int64_t offset = (pooled_rows[s] - first_) * rows_.pooled_row;
      sources[s].codes = codes_ + offset;
      sources[s].values = values_ + offset;
    }
    writer_.write(sources, count, out);
  }

  // Calls f(pooled row, window row) for the windows that have full row y, first window first.
  template <class F>
  void for_each_window(int64_t y, F&& f) const {
    int64_t oh = clamp(ceil_div(y + w_.padding_h - reach_, w_.stride_h), 0, g_.pooled_height);
    for (; oh < g_.pooled_height && oh * w_.stride_h <= y + w_.padding_h; ++oh) {
      const int64_t offset = y + w_.padding_h - oh * w_.stride_h;
      const int64_t i = quick_div(offset, w_.dilation_h);
      if (i * w_.dilation_h == offset) f(oh, i);
    }
  }

  // Makes pooled rows [first, last], counted over all samples, ready to be read, and some more, so that small rows are
  // not unpacked one by one.
  void unpack(int64_t first, int64_t last) {
    if (first >= first_ && last < end_) return;
    const int64_t rows_per_sample = rows_.planes * g_.pooled_height;
    const int64_t sample = first / rows_per_sample;
    const int64_t wanted =
        last + 1 - first > kUnpackedCodes / rows_.pooled_row ? last + 1 - first : kUnpackedCodes / rows_.pooled_row;
    const int64_t left = (sample + 1) * rows_per_sample - first;
    const int64_t count = (wanted < left ? wanted : left) * rows_.pooled_row;
    first_ = first;
    end_ = first + (wanted < left ? wanted : left);
    values_ = prepared_values(first * rows_.pooled_row, count);
    if (g_.bits <= kMaxByteBits) {
      codes_ = unpack_codes(g_, p_.codes + sample * g_.sample_bytes, first % rows_per_sample * rows_.pooled_row, count,
                            code_buffer_);
    }
  }

  // Values [first, first + count) of the pooled map, masked and widened where asked.
  const T* prepared_values(int64_t first, int64_t count) {
    const Raw* v = static_cast<const Raw*>(p_.values) + first;
    if (p_.relu_output != nullptr) {
      Raw* masked = masked_.reserve(count);
      mask_by_relu<E>(v, static_cast<const Raw*>(p_.relu_output) + first, count, masked);
      v = masked;
    }
    if constexpr (kWidens) {
      T* wide = wide_.reserve(count);
      widen(E{}, v, count, wide);
      return wide;
    } else {
      return reinterpret_cast<const T*>(v);
    }
  }

  // Places what row i of the windows of pooled row oh holds; codes wider than a byte.
  void add_wide_codes(int64_t plane, int64_t oh, int64_t i, T* out) {
    const int64_t row = plane * g_.pooled_height + oh, rows_per_sample = rows_.planes * g_.pooled_height;
    unpack(row, row);
    const T* v = values_ + (row - first_) * rows_.pooled_row;
    const uint8_t* codes = p_.codes + row / rows_per_sample * g_.sample_bytes;
    const int64_t first = row % rows_per_sample * rows_.pooled_row;
    for (int64_t e = 0; e < rows_.pooled_row; ++e) {
      const uint32_t code = load_code(codes, first + e, g_.bits);
      Pixel pixel;
      if (!switch_pixel(g_, {oh, e / rows_.depth}, code, &pixel) || code / w_.kernel_w != i) continue;
      T& target = out[pixel.column * rows_.depth + e % rows_.depth];
      target = kSum ? target + v[e] : v[e];
    }
  }

  const ScatterParams& p_;
  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const RowWriter<T, kSum> writer_;
  const int64_t reach_;  // pixels from the first to the last row of a window

  // Pooled rows [first_, end_) as unpack left them.
  static constexpr int64_t kUnpackedCodes = 2048;
  int64_t first_ = 0, end_ = 0;
  const uint8_t* codes_ = nullptr;
  const T* values_ = nullptr;
  Buffer<uint8_t> code_buffer_;
  Buffer<Raw> masked_;
  Buffer<T> wide_;

  Buffer<T> sums_;  // the full row at hand, before it is narrowed
};

}  // namespace

void scatter(const ScatterParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) {
    using E = decltype(element);
    using Raw = typename E::Raw;
    if (params.overlap == Overlap::kAdd && !windows_are_disjoint(params.geometry.window)) {
      using Sum = std::conditional_t<std::is_floating_point_v<Raw>, Raw, float>;
      Scatter<E, Sum, true>(params).run(begin, end);
    } else {
      Scatter<E, Int<Raw>, false>(params).run(begin, end);
    }
  });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
