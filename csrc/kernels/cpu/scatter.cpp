// Scatter: writes the full map a row at a time, each row from the few pooled rows whose windows reach it; or some rows
// at a time, if the switches are followed one by one (switch_pixels.h).
//
// Whatever the windows, a full row is written once, front to back. Rows are therefore independent, results do not
// depend on how threads divide them, and large maps can bypass the caches (map_writer.h). The pooled rows needed are
// unpacked to one byte per code (and masked or widened if requested) in scratch memory that stays in the first-level
// cache and is reused for the next row.
#include "../scatter.h"

#include <optional>

#include "buffer.h"
#include "codes.h"
#include "map_writer.h"
#include "phases.h"
#include "row_writer.h"
#include "rows.h"
#include "strided.h"
#include "switch_pixels.h"
#include "values.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// Scatter over full rows. E is the traits of the element type, T the type that is moved or summed (see RowWriter).
template <class E, class T, bool kSum>
class Scatter {
  using Raw = typename E::Raw;
  static constexpr bool kWidens = kSum && !std::is_same_v<Raw, T>;
  using Moved = std::conditional_t<kWidens, Raw, T>;

  // A band of full rows that stays in the second-level cache, and is much higher than a window: the switches of windows
  // that reach into several bands are decoded for each.
  static constexpr int64_t kBandBytes = 131072, kWindowsPerBand = 4;

 public:
  explicit Scatter(const ScatterParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        tiles_(!kSum && tiles_map(g_)),
        walks_pixels_(g_.channels_last && g_.bits <= kMaxByteBits && !packs_pixels<T>(g_) && windows_are_disjoint(w_)),
        follows_(!tiles_ && !walks_pixels_ && (SwitchPixels::suits<T>(g_) || has_short_rows(g_))),
        writer_(g_),
        gap_(tiles_ || follows_ ? 0 : writer_.gap()),
        unpacked_(g_, p_.codes, gap_),
        reach_((w_.kernel_h - 1) * w_.dilation_h),
        merges_(tiles_ && merges_rows_written<T>(g_)) {
    if (!follows_) return;
    pixels_.emplace(g_);
    band_ = larger(kBandBytes / (rows_.row * kBytesOf<T>), kWindowsPerBand * (reach_ + 1));
  }

  // Writes full rows [begin, end), counted over all planes of all samples.
  void run(int64_t begin, int64_t end) {
    const int64_t longest = tiles_     ? larger(w_.kernel_h * g_.width, kScratchBytes / kBytesOf<T>)
                            : follows_ ? smaller(band_, end - begin) * rows_.row
                                       : rows_.row;
    MapWriter<Moved> map(static_cast<Moved*>(p_.map) + begin * rows_.row, longest, p_.bypass_caches);
    int64_t plane = begin / g_.height, y = begin % g_.height;
    for (int64_t r = begin; r < end;) {
      const int64_t written = rows(plane, y, end - r, map);
      r += written;
      y += written;
      while (y >= g_.height) {
        y -= g_.height;
        ++plane;
      }
    }
  }

 private:
  // An NCHW row that few windows reach costs as much as one that fills a vector of float32.
  static bool has_short_rows(const PoolGeometry& g) { return !g.channels_last && g.pooled_width <= kLanes<float>; }

  // Writes at most `most` full rows from row `y` of a plane on. Returns how many were written.
  int64_t rows(int64_t plane, int64_t y, int64_t most, MapWriter<Moved>& map) {
    if constexpr (!kSum) {
      if (tiles_ && y < g_.pooled_height * w_.kernel_h) {
        return w_.kernel_h == 2 ? tiled_rows<2>(plane, y, most, map) : tiled_rows<3>(plane, y, most, map);
      }
      if (walks_pixels_) {
        Source<T> source;
        const int sources = find_sources(plane, y, &source);
        writer_.write_pixels(sources > 0 ? &source : nullptr, map);
        return 1;
      }
    }
    const int64_t count = follows_ ? smaller(band_, most) : 1, elements = count * rows_.row;
    T* out;
    if constexpr (kWidens) {
      out = sums_.reserve(elements);
    } else {
      out = map.next();
    }
    if (follows_) {
      write_band(plane, y, count, out);
    } else {
      Source<T> sources[1 << kMaxByteBits];
      writer_.write(sources, find_sources(plane, y, sources), out);
    }
    if constexpr (kWidens) narrow(E{}, out, elements, map.next());
    map.commit(elements);
    return count;
  }

  // Writes `count` full rows from row `y` of a plane on, which may end in another plane, by following the switches.
  // Values are placed or added in the order of the pooled map. Not inlined, so that the functions that write a single
  // row are.
  __attribute__((noinline)) void write_band(int64_t plane, int64_t y, int64_t count, T* out) {
    std::memset(out, 0, count * rows_.row * sizeof(T));
    T nowhere{};
    while (count > 0) {
      const Range band{y, smaller(y + count, g_.height)}, reaching = pixels_->pooled_rows(band);
      for (int64_t oh = reaching.begin; oh < reaching.end; ++oh) {
        const int64_t pooled_row = plane * g_.pooled_height + oh;
        make_ready(pooled_row, pooled_row);
        const T* values = values_of(pooled_row);
        pixels_->for_each(unpacked_[pooled_row], oh, band,
                          [&](int64_t e, bool named, int64_t offset) SEGEXT_LAMBDA_INLINE {
                            T& target = *(named ? out + offset : &nowhere);
                            target = kSum ? target + values[e] : values[e];
                          });
      }
      count -= band.end - band.begin;
      out += (band.end - band.begin) * rows_.row;
      ++plane;
      y = 0;
    }
  }

  // The same for windows that tile the map: values and codes are read once for all Size full rows that they fill. A
  // pixel holds the value of its window if it is the one that the code names, else zero. With Size 2:
  //
  //   pooled row h:  v0  v1     full row 2h:      [v0 if code 0][v0 if code 1][v1 if code 0][v1 if code 1]
  //                             full row 2h + 1:  [v0 if code 2][v0 if code 3][v1 if code 2][v1 if code 3]
  template <int Size>
  int64_t tiled_rows(int64_t plane, int64_t y, int64_t most, MapWriter<Moved>& map) {
    const int64_t oh = y / Size, first = y % Size, pooled_row = plane * g_.pooled_height + oh;
    make_ready(pooled_row, pooled_row);
    if (merges_ && first == 0) {
      const int64_t end = smaller(pooled_row + most / Size, unpacked_.end());
      const int64_t merged = rows_to_merge<T>(g_, pooled_row, oh, end);
      if (merged > 1) {
        lines_.reserve(Size, merged * g_.width);
        tile<Size>(pooled_row, merged * g_.pooled_width, 0, Size, lines_[0], lines_.pitch());
        lines_.join(map.next(), merged * Size, g_.width, Size);
        map.commit(merged * Size * g_.width);
        return merged * Size;
      }
    }
    const int64_t count = smaller(smaller(Size - first, g_.height - y), most);
    const int64_t columns = smaller(g_.pooled_width, g_.width / Size);
    T* rows = map.next();
    tile<Size>(pooled_row, columns, first, count, rows, g_.width);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t x = columns * Size; x < g_.width; ++x) {
        rows[i * g_.width + x] = edge_pixel<Size>(pooled_row, first + i, x);
      }
    }
    map.commit(count * g_.width);
    return count;
  }

  // The pixel in column x of window row i, to the right of all windows that are whole. It belongs to a window that
  // reaches past the map's edge, or to no window; then it is zero.
  template <int Size>
  SEGEXT_INLINE T edge_pixel(int64_t pooled_row, int64_t i, int64_t x) const {
    const int64_t ow = x / Size;
    const bool named = ow < g_.pooled_width && unpacked_[pooled_row][ow] == i * Size + x % Size;
    return named ? values_of(pooled_row)[ow] : T{0};
  }

  // Writes window rows [first, first + count) of the first `columns` elements of a pooled row. The rows that are
  // written start at `rows` and are `pitch` elements apart.
  template <int Size>
  SEGEXT_INLINE void tile(int64_t pooled_row, int64_t columns, int64_t first, int64_t count, T* rows,
                          int64_t pitch) const {
    const T* values = values_of(pooled_row);
    const uint8_t* codes = unpacked_[pooled_row];
    cover_with_blocks<T>({0, columns}, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> v = lanes.load_lanes(values + j, 0, 1);
      const auto code = widen_codes<T>(codes + j);
      T* out = rows + j * Size;
      for (int64_t i = first; i < first + count; ++i, out += pitch) {
        Vec<T> phase[Size];
        for (int t = 0; t < Size; ++t) {
          phase[t] = code == broadcast(static_cast<Int<T>>(i * Size + t)) ? v : Vec<T>{};
        }
        store_interleaved<Size>(lanes, phase, out);
      }
    });
  }

  // Finds the pooled rows whose windows contain full row y of a plane. Returns how many there are.
  int find_sources(int64_t plane, int64_t y, Source<T>* sources) {
    int64_t pooled_rows[1 << kMaxByteBits];
    int count = 0;
    for_each_window(y, [&](int64_t oh, int64_t i) {
      sources[count].first_tap = i * w_.kernel_w;
      pooled_rows[count++] = plane * g_.pooled_height + oh;
    });
    if (count > 0) make_ready(pooled_rows[0], pooled_rows[count - 1]);
    for (int s = 0; s < count; ++s) {
      sources[s].codes = unpacked_[pooled_rows[s]];
      sources[s].values = values_of(pooled_rows[s]);
    }
    return count;
  }

  // Calls f(pooled row, window row) for the windows that contain full row y, in ascending order.
  template <class F>
  void for_each_window(int64_t y, F&& f) const {
    int64_t oh = clamp(ceil_div(y + w_.padding_h - reach_, w_.stride_h), 0, g_.pooled_height);
    for (; oh < g_.pooled_height && oh * w_.stride_h <= y + w_.padding_h; ++oh) {
      const int64_t offset = y + w_.padding_h - oh * w_.stride_h;
      const int64_t i = quick_div(offset, w_.dilation_h);
      if (i * w_.dilation_h == offset) f(oh, i);
    }
  }

  // Makes pooled rows [first, last], counted over all samples, ready to be read.
  SEGEXT_INLINE void make_ready(int64_t first, int64_t last) {
    if (!unpacked_.make_ready(first, last)) return;
    values_ =
        prepared_values(unpacked_.begin() * rows_.pooled_row, (unpacked_.end() - unpacked_.begin()) * rows_.pooled_row);
  }

  const T* values_of(int64_t pooled_row) const { return values_ + (pooled_row - unpacked_.begin()) * rows_.pooled_row; }

  // Values [first, first + count) of the pooled map, masked and widened if required; gap_ more can be read on either
  // side.
  __attribute__((noinline)) const T* prepared_values(int64_t first, int64_t count) {
    const Moved* v = static_cast<const Moved*>(p_.values) + first;
    const bool at_end = first < gap_ || first + count + gap_ > g_.samples * pooled_elements(g_);
    if (p_.relu_output != nullptr) {
      Moved* masked = moved_.reserve(count + 2 * gap_) + gap_;
      mask_by_relu<E>(v, static_cast<const Raw*>(p_.relu_output) + first, count, masked);
      v = masked;
    } else if (!kWidens && at_end && gap_ > 0) {
      Moved* copy = moved_.reserve(count + 2 * gap_) + gap_;
      std::memcpy(copy, v, count * sizeof(Moved));
      v = copy;
    }
    if constexpr (kWidens) {
      T* wide = wide_.reserve(count + 2 * gap_) + gap_;
      widen(E{}, v, count, wide);
      return wide;
    } else {
      return v;
    }
  }

  const ScatterParams& p_;
  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const bool tiles_;           // see tiles_map
  const bool walks_pixels_;    // channels_last windows that share no pixel, and whose pixels are not packed
  const bool follows_;         // switches are followed one by one
  RowWriter<T, kSum> writer_;  // of all other rows
  const int64_t gap_;          // elements between rows of codes, which `writer_` needs
  UnpackedRows unpacked_;
  const int64_t reach_;                 // pixels from the first to the last row of a window
  const bool merges_;                   // see merges_rows_written
  std::optional<SwitchPixels> pixels_;  // if follows_
  int64_t band_ = 0;                    // full rows that are then written at a time, at most
  const T* values_ = nullptr;           // of the pooled rows that are unpacked
  Buffer<Moved> moved_;
  Buffer<T> wide_;
  Buffer<T> sums_;  // the current full row, before it is narrowed
  Phases<T> lines_;
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
