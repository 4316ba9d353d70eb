// Gather: every pooled element reads the pixel that its switch refers to, one pooled row at a time.
//
// All pixels of a window are read, and one is selected by its code. This costs no more memory traffic than reading only
// the selected pixels, because these lie in the same cache lines; and it vectorises, unlike reading by code. Where
// vectors do not help, switches are followed one by one (switch_pixels.h).
#include "../gather.h"

#include <optional>

#include "codes.h"
#include "phases.h"
#include "rows.h"
#include "strided.h"
#include "switch_pixels.h"
#include "values.h"
#include "winner_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// T is an integer as wide as the elements, since values are only moved.
template <class T>
class Gather {
  // Elements whose pixels are marked together, and stay in the second-level cache with them; or so many times the rows
  // that are visited besides.
  static constexpr int64_t kElements = 16384, kReaches = 4;

 public:
  explicit Gather(const GatherParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        interior_(interior_columns(params.geometry)),
        unpacked_(params.geometry, params.codes),
        only_winners_(params.overlap == Overlap::kKeepLast && !windows_are_disjoint(params.geometry.window)),
        tiles_(tiles_map(g_)),
        follows_(!tiles_ && (SwitchPixels::suits<T>(g_) || (only_winners_ && !WinnerRows::suits(g_)))),
        packs_(packs_pixels<T>(g_)),
        merges_(tiles_ && merges_rows_read<T>(g_)),
        block_(smaller((2 * kLanes<T> / rows_.depth - w_.kernel_w) / w_.stride_w + 1, kLanes<T> / rows_.depth)),
        picks_(kPicksLanes && has_strided_path(g_) && w_.stride_w > 1 && block_ > 1) {
    if (follows_) {
      pixels_.emplace(g_);
      return;
    }
    for (int64_t k = 0; k < kLanes<T>; ++k) {
      numbers_[k] = static_cast<T>(k / rows_.depth * w_.stride_w * rows_.depth + k % rows_.depth);
    }
    if (only_winners_) winners_.emplace(g_, p_.codes);
  }

  // Gathers pooled rows [begin, end), counted over all planes of all samples.
  void run(int64_t begin, int64_t end) {
    int64_t plane = begin / g_.pooled_height, oh = begin % g_.pooled_height;
    for (int64_t r = begin; r < end;) {
      const T* map = static_cast<const T*>(p_.map) + plane * g_.height * rows_.row;
      T* out = static_cast<T*>(p_.values) + r * rows_.pooled_row;
      const int64_t count = rows(map, r, oh, end - r, out);
      if (p_.relu_output != nullptr) mask(r * rows_.pooled_row, count * rows_.pooled_row, out);
      r += count;
      for (oh += count; oh >= g_.pooled_height; oh -= g_.pooled_height) ++plane;
    }
  }

 private:
  // Gathers at most `most` pooled rows from row `oh` of a plane on, which is row r counted over all planes. Returns
  // their number.
  int64_t rows(const T* map, int64_t r, int64_t oh, int64_t most, T* out) {
    // Rows of windows inside the map. It may be larger than all the windows of a plane.
    if (const int64_t whole = tiles_ ? smaller(g_.pooled_height, g_.height / w_.kernel_h) : 0; oh < whole) {
      unpacked_.make_ready(r, r);
      const T* lines = map + oh * w_.kernel_h * rows_.row;
      most = smaller(most, unpacked_.end() - r);
      const int64_t merging = merges_ ? rows_to_merge<T>(g_, r, oh, r + most) : 0;
      if (merging > 1) return merged(lines, merging, unpacked_[r], out);
      const int64_t count = smaller(most, whole - oh);
      return w_.kernel_h == 2 ? tiled<2>(lines, r, oh, count, out) : tiled<3>(lines, r, oh, count, out);
    }
    if (follows_ && only_winners_) return winners(map, r, oh, most, out);
    row(map, r, oh, out);
    return 1;
  }

  void mask(int64_t first, int64_t count, T* out) const {
    with_floating_element(p_.type, [&](auto element) {
      using Raw = typename decltype(element)::Raw;
      if constexpr (sizeof(T) == sizeof(Raw)) {
        mask_by_relu<decltype(element)>(out, static_cast<const Raw*>(p_.relu_output) + first, count, out);
      }
    });
  }

  void row(const T* map, int64_t r, int64_t oh, T* out) {
    if (follows_) {
      follow(map, r, oh, out);
      return;
    }
    const uint8_t* codes = codes_of(r, oh);
    const int64_t top = oh * w_.stride_h - w_.padding_h;
    const Range inside = taps_inside(top, w_.kernel_h, w_.dilation_h, g_.height);
    if (g_.channels_last && !packs_) {
      for_each_pixel(g_, map, top, inside, [&](auto kernel, int64_t j, const T* corner, Range rows, Range across) {
        pixel<kernel()>(corner, rows, across, codes + j * rows_.depth, out + j * rows_.depth);
      });
      return;
    }
    edge(map, oh, codes, {0, interior_.begin}, out);
    const T* corner = map + (top + inside.begin * w_.dilation_h) * rows_.row - w_.padding_w * rows_.depth;
    if (packs_ && picks_) {
      picked<0, kAnyKernel, false>(corner, w_.dilation_h * rows_.row, interior_, inside, rows_.depth, codes, out);
    } else if (packs_) {
      packed(map, top, inside, codes, out);
    } else {
      with_strided_window(w_, inside, [&](auto stride, auto kernel) {
        columns<stride(), kernel(), true>(corner, w_.dilation_h * rows_.row, interior_, inside, codes, out);
      });
    }
    edge(map, oh, codes, {interior_.end, g_.pooled_width}, out);
  }

  // The codes of row r, which is row `oh` of its plane; those of elements that read nothing name no pixel.
  const uint8_t* codes_of(int64_t r, int64_t oh) {
    if (winners_) return winners_->row(r, oh);
    unpacked_.make_ready(r, r);
    return unpacked_[r];
  }

  // Gathers the pooled NCHW columns `columns`, a vector at a time, from window rows `step` apart; `corner` is the first
  // tap of column 0. Unless it is kAnyKernel, Kernel is the height and the width of a window all of whose rows are
  // inside the map. kFar: the lines are those of the map itself, not yet in cache.
  template <int Stride, int Kernel, bool kFar>
  SEGEXT_INLINE void columns(const T* corner, int64_t step, Range columns, Range inside, const uint8_t* codes,
                             T* out) const {
    const int64_t begin = Kernel ? 0 : inside.begin, end = Kernel ? Kernel : inside.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    if constexpr (kPicksLanes && Stride > 1 && Kernel != 2) {  // with two taps a row, picking saves nothing
      if (picks_) return picked<Stride, Kernel, kFar>(corner, step, columns, {begin, end}, 1, codes, out);
    }
    cover_with_blocks<T>(columns, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> code = widen_codes<T>(codes + j);
      Vec<T> v{};
      const T* line = corner + j * Stride;
      if constexpr (kFar) prefetch_run<Stride, Kernel>(corner, w_, j);
#pragma GCC unroll 3
      for (int64_t i = begin; i < end; ++i, line += step) {
        for_each_tap<Stride, Kernel>(line, w_, lanes, [&](int64_t t, Vec<T> pixels) SEGEXT_LAMBDA_INLINE {
          v = code == broadcast(static_cast<T>(i * kernel_w + t)) ? pixels : v;
        });
      }
      lanes.store_lanes(out + j, v, 0, 1);
    });
  }

  // The same, and for channels_last pixels of `depth` elements too, where picks_: the window rows of a block of columns
  // lie within two vectors, from which each lane picks by its code. Window row i of 3x3 windows of stride 2, for
  // instance, is
  //
  //   p0 p1 p2 p3 p4 p5 p6 ..     from which lane k picks pixel 2k + (code - 3i), if its code is 3i to 3i + 2
  //
  // This takes two loads and a few operations a window row, however many taps that has.
  template <int Stride, int Kernel, bool kFar>
  SEGEXT_INLINE void picked(const T* corner, int64_t step, Range columns, Range inside, int64_t depth,
                            const uint8_t* codes, T* out) const {
    constexpr int64_t kN = kLanes<T>;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w, stride = Stride ? Stride : w_.stride_w;
    const Vec<T> numbers = load(numbers_);
    const auto block = [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> code = widen_codes<T>(codes + j * depth), first = numbers + code * static_cast<T>(depth);
      Vec<T> v{};
      const T* line = corner + j * stride * depth;
      if constexpr (kFar) prefetch_run<Stride, Kernel>(corner, w_, j);
#pragma GCC unroll 3
      for (int64_t i = inside.begin; i < inside.end; ++i, line += step) {
        const auto tap = static_cast<T>(i * kernel_w);
        const Vec<T> low = lanes.load_lanes(line, 0, 1), high = lanes.load_lanes(line + kN, 1, 1);
        const Vec<T> pixels = pick_lanes<T>(low, high, first - broadcast(static_cast<T>(tap * depth)));
        v = code >= broadcast(tap) ? pixels : v;
      }
      return code < broadcast(static_cast<T>(inside.end * kernel_w)) ? v : Vec<T>{};
    };
    int64_t j = columns.begin;
    // Columns from which whole vectors can be read and written. What is written past a block, the next one overwrites.
    const int64_t whole = larger(ceil_div(kN, depth), ceil_div(ceil_div(2 * kN, depth) - kernel_w, stride) + 1);
    for (; j + whole <= columns.end; j += block_) store(out + j * depth, block(j, AllLanes{}));
    for (; j < columns.end; j += block_) {
      const int64_t count = smaller(columns.end - j, block_);
      store_partial(out + j * depth, block(j, FirstLanes{((count - 1) * stride + kernel_w) * depth}), count * depth);
    }
  }

  // Gathers `count` pooled rows of windows that tile the map, from its row `lines` on, and returns `count`. Not
  // inlined: with the loops of all windows in one function, none would keep its vectors in registers.
  template <int Size>
  __attribute__((noinline)) int64_t tiled(const T* lines, int64_t r, int64_t oh, int64_t count, T* out) {
    const Range whole{0, smaller(g_.pooled_width, g_.width / Size)};
    for (int64_t k = 0; k < count; ++k, lines += Size * rows_.row, out += rows_.pooled_row) {
      columns<Size, Size, true>(lines, rows_.row, whole, {0, Size}, unpacked_[r + k], out);
      if (whole.end == g_.pooled_width) continue;
      const T* map = lines - (oh + k) * Size * rows_.row;
      edge(map, oh + k, unpacked_[r + k], {whole.end, g_.pooled_width}, out);
    }
    return count;
  }

  // The same for lines joined end to end.
  int64_t merged(const T* lines, int64_t count, const uint8_t* codes, T* out) {
    phases_.reserve(w_.kernel_h, count * g_.width);
    phases_.split(lines, count * w_.kernel_h, g_.width, w_.kernel_h);
    const Range all{0, count * g_.pooled_width}, inside{0, w_.kernel_h};
    if (w_.kernel_h == 2) {
      columns<2, 2, false>(phases_[0], phases_.pitch(), all, inside, codes, out);
    } else {
      columns<3, 3, false>(phases_[0], phases_.pitch(), all, inside, codes, out);
    }
    return count;
  }

  // The interior of a row of channels_last pixels with few channels.
  void packed(const T* map, int64_t top, Range inside, const uint8_t* codes, T* out) {
    taps_.for_each_part(g_, map, top, inside, interior_, [&](Range part, const TapRow<T>* taps, int count) {
      const int64_t first = part.begin * rows_.depth, elements = (part.end - part.begin) * rows_.depth;
      cover_with_blocks<T>({0, elements}, [&](int64_t e, auto lanes) SEGEXT_LAMBDA_INLINE {
        const Vec<T> code = widen_codes<T>(codes + first + e);
        Vec<T> v{};
        for (int k = 0; k < count; ++k) {
          v = code == broadcast(static_cast<T>(taps[k].code)) ? lanes.load_lanes(taps[k].row + e, 0, 1) : v;
        }
        lanes.store_lanes(out + first + e, v, 0, 1);
      });
    });
  }

  // All channels of one channels_last pixel. Kernel is as above, with all columns inside the map too.
  template <int Kernel>
  SEGEXT_INLINE void pixel(const T* corner, Range inside, Range across, const uint8_t* codes, T* out) const {
    const int64_t rows_end = Kernel ? Kernel : inside.end, columns_end = Kernel ? Kernel : across.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    const int64_t step_h = w_.dilation_h * rows_.row, step_w = w_.dilation_w * rows_.depth;
    cover_with_blocks<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> code = widen_codes<T>(codes + c);
      Vec<T> v{};
      const T* line = corner + c;
#pragma GCC unroll 3
      for (int64_t i = Kernel ? 0 : inside.begin; i < rows_end; ++i, line += step_h) {
        const T* tap = line;
#pragma GCC unroll 3
        for (int64_t t = Kernel ? 0 : across.begin; t < columns_end; ++t, tap += step_w) {
          v = code == broadcast(static_cast<T>(i * kernel_w + t)) ? lanes.load_lanes(tap, 0, 1) : v;
        }
      }
      lanes.store_lanes(out + c, v, 0, 1);
    });
  }

  // The pooled columns whose windows reach past a side of the map, by their unpacked codes.
  void edge(const T* map, int64_t oh, const uint8_t* codes, Range columns, T* out) const {
    for (int64_t ow = columns.begin; ow < columns.end; ++ow) {
      for (int64_t c = 0, e = ow * rows_.depth; c < rows_.depth; ++c, ++e) {
        Pixel pixel;
        out[e] = switch_pixel(g_, {oh, ow}, codes[e], &pixel) ? map[map_element(pixel, c)] : T{0};
      }
    }
  }

  // Row r, counted over all planes, which is row `oh` of its plane, by following the switches.
  __attribute__((noinline)) void follow(const T* map, int64_t r, int64_t oh, T* out) {
    const T nowhere{};
    unpacked_.make_ready(r, r);
    pixels_->for_each(unpacked_[r], oh, {0, g_.height},
                      [&](int64_t e, bool named, int64_t offset)
                          SEGEXT_LAMBDA_INLINE { out[e] = *(named ? map + offset : &nowhere); });
  }

  // The same for at most `most` rows, in which only the last element that names a pixel reads it. Returns their number.
  // Visits the elements from last to first, those below that share pixels with these included, and notes which pixels
  // have been named.
  __attribute__((noinline)) int64_t winners(const T* map, int64_t r, int64_t oh, int64_t most, T* out) {
    const int64_t reach = (w_.kernel_h - 1) * w_.dilation_h, below = reach / w_.stride_h;
    most = smaller(smaller(most, g_.pooled_height - oh), larger(kElements / rows_.pooled_row, kReaches * (below + 1)));
    const int64_t last = smaller(oh + most - 1 + below, g_.pooled_height - 1), top = oh * w_.stride_h - w_.padding_h;
    const Range band{clamp(top, 0, g_.height), clamp(top + (most - 1) * w_.stride_h + reach + 1, 0, g_.height)};
    const int64_t size = (band.end - band.begin) * rows_.row;
    uint8_t* named_before = named_.reserve(size + 1);
    std::memset(named_before, 0, size);
    uint8_t& no_pixel = named_before[size] = 1;
    const T nowhere{};
    map += band.begin * rows_.row;
    unpacked_.make_ready(r, r + last - oh);
    for (int64_t k = last - oh; k >= 0; --k) {
      T* row = k < most ? out + k * rows_.pooled_row : nullptr;
      const auto visit = [&](auto reads) SEGEXT_LAMBDA_INLINE {
        pixels_->for_each<true>(unpacked_[r + k], oh + k, band,
                                [&](int64_t e, bool named, int64_t offset) SEGEXT_LAMBDA_INLINE {
                                  // Integer arithmetic in place of a branch that no processor could predict.
                                  uint8_t& before = *(named ? named_before + offset : &no_pixel);
                                  const T pixel = *(named ? map + offset : &nowhere);
                                  if constexpr (reads()) row[e] = pixel & static_cast<T>(before - 1);
                                  before = 1;
                                });
      };
      if (k < most) {
        visit(std::true_type{});
      } else {
        visit(std::false_type{});
      }
    }
    return most;
  }

  // Where in a plane of the full map channel c of a pixel is.
  int64_t map_element(Pixel pixel, int64_t c) const { return pixel.row * rows_.row + pixel.column * rows_.depth + c; }

  const GatherParams& p_;
  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const Range interior_;
  UnpackedRows unpacked_;
  const bool only_winners_;  // only the last element that names a pixel reads it
  const bool tiles_;         // see tiles_map
  const bool follows_;       // switches are followed one by one
  const bool packs_;         // see packs_pixels
  const bool merges_;        // see merges_rows_read
  const int64_t block_;      // the most columns whose window rows lie within two vectors, and their values within one
  const bool picks_;         // see picked
  T numbers_[kLanes<T>];     // where in a window row of a block each lane's first tap is
  Phases<T> phases_;
  TapRows<T> taps_;
  std::optional<WinnerRows> winners_;   // of windows that overlap, unless follows_
  std::optional<SwitchPixels> pixels_;  // if follows_
  Buffer<uint8_t> named_;               // whether a pixel has been named
};

}  // namespace

void gather(const GatherParams& params, int64_t begin, int64_t end) {
  with_bits(params.type, [&](auto zero) SEGEXT_LAMBDA_INLINE { Gather<decltype(zero)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
