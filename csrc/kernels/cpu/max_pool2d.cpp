// Max-pooling with switches: vectors of pooled columns (NCHW) or of channels (channels_last), scalars at the borders.
//
// The pool is bound by memory: every input element is fetched from memory once, and windows that overlap find it in
// cache; every output and code is written once. In NCHW, the pixels of one tap for a vector of pooled columns are a
// stride apart: whole vectors are loaded and deinterleaved in registers. In channels_last, a tap is a plain vector of
// channels.
#include "../max_pool2d.h"

#include "codes.h"
#include "element.h"
#include "phases.h"
#include "rows.h"
#include "strided.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// The maximum so far, and the code of the tap that held it, in each lane of a vector of pooled elements.
template <class E, bool kRelu>
struct VectorBest {
  using Raw = typename E::Raw;
  using Codes = Vec<Int<Raw>>;

  Vec<Raw> value = broadcast(E::kLowest);
  typename E::VectorRank rank{};
  Codes code{};

  // `first`: whether this is the first tap. A constant in unrolled loops.
  SEGEXT_INLINE void take(Vec<Raw> v, int64_t tap, bool first) { take(v, tap, first, tap); }

  SEGEXT_INLINE void restart() { rank = E::restart(rank); }

  // `order`: of the tap among those since the last restart of ranks.
  SEGEXT_INLINE void take(Vec<Raw> v, int64_t tap, bool first, int64_t order) {
    auto later = E::rank(v, order);
    if constexpr (kRelu) {
      const auto negative = later < 0;
      v = negative ? Vec<Raw>{} : v;
      later = negative ? typename E::VectorRank{} : later;
    }
    if (first) {
      value = v;
      rank = later;
      code = broadcast(static_cast<Int<Raw>>(tap));
    } else {
      const auto beats = E::beats(later, rank);
      value = beats ? v : value;
      rank = beats ? later : rank;
      code = beats ? broadcast(static_cast<Int<Raw>>(tap)) : code;
    }
  }
};

// The same for one element.
template <class E, bool kRelu>
struct ScalarBest {
  typename E::Raw value = E::kLowest;
  decltype(E::rank(E::kLowest)) rank{};
  uint32_t code = 0;
  bool empty = true;

  SEGEXT_INLINE void take(typename E::Raw v, int64_t tap) {
    auto later = E::rank(v);
    if (kRelu && later < 0) {
      v = 0;
      later = 0;
    }
    if (empty || E::beats(later, rank)) {
      value = v;
      rank = later;
      code = static_cast<uint32_t>(tap);
      empty = false;
    }
  }
};

template <class E, bool kRelu>
class Pool {
  using Raw = typename E::Raw;
  using Best = VectorBest<E, kRelu>;
  // Loops for windows of constant size, rows joined end to end, and many taps at a time are compiled for floats only.
  // Networks pool few integers: for these, the general loops are fast enough, and a ReLU takes scalars.
  static constexpr bool kFloats = !std::is_integral_v<typename E::Wide>;
  static constexpr bool kVectors = kFloats || !kRelu;
  static constexpr int kN = kLanes<Raw>;
  static constexpr int64_t kMaxCodes = std::numeric_limits<Int<Raw>>::max();  // taps that a lane can tell apart
  static constexpr int64_t kFewTaps = 16;                                     // up to which a vector at a time is fast

 public:
  explicit Pool(const MaxPool2dParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        interior_(interior_columns(params.geometry)),
        has_many_taps_(kFloats && g_.channels_last && w_.kernel_h * w_.kernel_w > kFewTaps &&
                       w_.kernel_h * w_.kernel_w <= kMaxCodes && w_.kernel_w < E::kMaxVectorTaps),
        vectorises_(kVectors && g_.bits <= kMaxByteBits && w_.kernel_h * w_.kernel_w <= E::kMaxVectorTaps &&
                    (g_.channels_last || has_strided_path(g_))),
        packs_(vectorises_ && packs_pixels<Raw>(g_)),
        tiles_(kFloats && vectorises_ && tiles_map(g_)),
        merges_(tiles_ && merges_rows_read<Raw>(g_)),
        prefetches_(has_long_pixels<Raw>(g_)) {}

  // Pooled rows [begin, end) of one sample; row `begin` starts on a byte of the codes.
  void run(int64_t sample, int64_t begin, int64_t end) {
    CodeWriter codes(p_.codes + sample * g_.sample_bytes, begin * rows_.pooled_row, g_.bits);
    const Raw* input = static_cast<const Raw*>(p_.input) + sample * rows_.planes * g_.height * rows_.row;
    Raw* output = static_cast<Raw*>(p_.output) + sample * rows_.planes * g_.pooled_height * rows_.pooled_row;
    const Raw* plane = input + begin / g_.pooled_height * g_.height * rows_.row;
    int64_t oh = begin % g_.pooled_height;
    for (int64_t r = begin; r < end;) {
      const int64_t count = rows(plane, r, oh, end - r, output + r * rows_.pooled_row, codes);
      r += count;
      for (oh += count; oh >= g_.pooled_height; oh -= g_.pooled_height) plane += g_.height * rows_.row;
    }
  }

 private:
  // Computes at most `most` pooled rows from row `oh` of a plane on, which is row r of the sample. Returns their
  // number.
  int64_t rows(const Raw* plane, int64_t r, int64_t oh, int64_t most, Raw* out, CodeWriter& codes) {
    if constexpr (kFloats) {
      if (const int64_t whole = tiles_ ? g_.height / w_.kernel_h : 0; oh < whole) {  // rows of windows inside the map
        const Raw* lines = plane + oh * w_.kernel_h * rows_.row;
        const int64_t merging = merges_ ? rows_to_merge<Raw>(g_, r, oh, r + most) : 0;
        if (merging > 1) return merged(lines, merging, out, codes);
        const int64_t count = smaller(most, whole - oh);
        return w_.kernel_h == 2 ? tiled<2>(lines, count, out, codes) : tiled<3>(lines, count, out, codes);
      }
    }
    row(plane, oh, out, codes);
    return 1;
  }

  void row(const Raw* plane, int64_t oh, Raw* out, CodeWriter& codes) {
    const int64_t top = oh * w_.stride_h - w_.padding_h;
    const Range inside = taps_inside(top, w_.kernel_h, w_.dilation_h, g_.height);
    if constexpr (kVectors) {
      if (packs_ || (vectorises_ && !g_.channels_last)) {
        scalars(plane, top, inside, {0, interior_.begin}, out, codes);
        if (packs_) {
          packed(plane, top, inside, out, codes);
        } else {
          const Raw* corner = plane + (top + inside.begin * w_.dilation_h) * rows_.row - w_.padding_w;
          const auto run = [&](auto stride, auto kernel) {
            columns<stride(), kernel(), true>(corner, w_.dilation_h * rows_.row, interior_, inside, out, codes);
          };
          if constexpr (kFloats) {
            with_strided_window(w_, inside, run);
          } else {
            with_stride(w_.stride_w, [&](auto stride) { run(stride, std::integral_constant<int, kAnyKernel>{}); });
          }
        }
        scalars(plane, top, inside, {interior_.end, g_.pooled_width}, out, codes);
        return;
      }
      if constexpr (kFloats) {
        if (has_many_taps_) {
          for_each_pixel(g_, plane, top, inside, [&](auto, int64_t j, const Raw* corner, Range rows, Range across) {
            many_taps(corner, rows, across, out + j * rows_.depth, codes);
          });
          return;
        }
      }
      if (vectorises_) {
        for_each_pixel(g_, plane, top, inside,
                       [&](auto kernel, int64_t j, const Raw* corner, Range rows, Range across) {
                         pixel<kFloats ? kernel() : kAnyKernel>(corner, rows, across, out + j * rows_.depth, codes);
                       });
        return;
      }
    }
    scalars(plane, top, inside, {0, g_.pooled_width}, out, codes);
  }

  // Computes the pooled NCHW columns `columns`, a vector at a time, from window rows `step` apart; `corner` is the
  // first tap of column 0. Unless it is kAnyKernel, Kernel is the height and the width of a window all of whose rows
  // are inside the map. kFar: the lines are those of the map itself, not yet in cache.
  template <int Stride, int Kernel, bool kFar>
  SEGEXT_INLINE void columns(const Raw* corner, int64_t step, Range columns, Range inside, Raw* out,
                             CodeWriter& codes) const {
    const int64_t begin = Kernel ? 0 : inside.begin, end = Kernel ? Kernel : inside.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    for_each_block<Raw>(columns, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      Best best;
      const Raw* line = corner + j * Stride;
      if constexpr (kFar) prefetch_run<Stride, Kernel>(corner, w_, j);
#pragma GCC unroll 3
      for (int64_t i = begin; i < end; ++i, line += step) {
        for_each_tap<Stride, Kernel>(line, w_, lanes, [&](int64_t t, Vec<Raw> v) SEGEXT_LAMBDA_INLINE {
          best.take(v, i * kernel_w + t, i == begin && t == 0);
        });
      }
      put(best, lanes, out + j, columns.end - j, codes);
    });
  }

  // Computes `count` pooled rows of windows that tile the map, from its row `lines` on, and returns `count`. Not
  // inlined: with the loops of all windows in one function, none would keep its vectors in registers.
  template <int Size>
  __attribute__((noinline)) int64_t tiled(const Raw* lines, int64_t count, Raw* out, CodeWriter& codes) const {
    const Range whole{0, smaller(g_.pooled_width, g_.width / Size)};
    for (int64_t k = 0; k < count; ++k, lines += Size * rows_.row, out += rows_.pooled_row) {
      columns<Size, Size, true>(lines, rows_.row, whole, {0, Size}, out, codes);
      if (whole.end < g_.pooled_width) scalars(lines, 0, {0, Size}, {whole.end, g_.pooled_width}, out, codes);
    }
    return count;
  }

  // The same for lines joined end to end.
  int64_t merged(const Raw* lines, int64_t count, Raw* out, CodeWriter& codes) {
    phases_.reserve(w_.kernel_h, count * g_.width);
    phases_.split(lines, count * w_.kernel_h, g_.width, w_.kernel_h);
    const Range all{0, count * g_.pooled_width}, inside{0, w_.kernel_h};
    if (w_.kernel_h == 2) {
      columns<2, 2, false>(phases_[0], phases_.pitch(), all, inside, out, codes);
    } else {
      columns<3, 3, false>(phases_[0], phases_.pitch(), all, inside, out, codes);
    }
    return count;
  }

  // The interior of a row of channels_last pixels with few channels.
  void packed(const Raw* plane, int64_t top, Range inside, Raw* out, CodeWriter& codes) {
    taps_.for_each_part(g_, plane, top, inside, interior_, [&](Range part, const TapRow<Raw>* taps, int count) {
      Raw* first = out + part.begin * rows_.depth;
      const int64_t elements = (part.end - part.begin) * rows_.depth;
      for_each_block<Raw>({0, elements}, [&](int64_t e, auto lanes) SEGEXT_LAMBDA_INLINE {
        Best best;
        for (int k = 0; k < count; ++k) {
          best.take(lanes.load_lanes(taps[k].row + e, 0, 1), taps[k].code, k == 0);
        }
        put(best, lanes, first + e, elements - e, codes);
      });
    });
  }

  // All channels of one channels_last pixel. Kernel is as above, with all columns inside the map too.
  template <int Kernel>
  SEGEXT_INLINE void pixel(const Raw* corner, Range inside, Range across, Raw* out, CodeWriter& codes) const {
    const int64_t rows_begin = Kernel ? 0 : inside.begin, rows_end = Kernel ? Kernel : inside.end;
    const int64_t columns_begin = Kernel ? 0 : across.begin, columns_end = Kernel ? Kernel : across.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    const int64_t step_h = w_.dilation_h * rows_.row, step_w = w_.dilation_w * rows_.depth;
    for_each_block<Raw>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
      Best best;
      const Raw* line = corner + c;
      if (Kernel == 2 && prefetches_) prefetch_pixels(corner, step_h, c);
#pragma GCC unroll 3
      for (int64_t i = rows_begin; i < rows_end; ++i, line += step_h) {
        const Raw* tap = line;
#pragma GCC unroll 3
        for (int64_t t = columns_begin; t < columns_end; ++t, tap += step_w) {
          best.take(lanes.load_lanes(tap, 0, 1), i * kernel_w + t, i == rows_begin && t == columns_begin);
        }
      }
      put(best, lanes, out + c, rows_.depth - c, codes);
    });
  }

  // The same for windows of many taps, as far as vectors can number those of a row, and codes of any size. Each tap
  // waits for the one before it, so several vectors of channels take turns.
  __attribute__((noinline)) void many_taps(const Raw* corner, Range inside, Range across, Raw* out,
                                           CodeWriter& codes) const {
    constexpr int kTogether = 4;
    const int64_t step_h = w_.dilation_h * rows_.row, step_w = w_.dilation_w * rows_.depth;
    const auto window = [&]<int... K>(int64_t c, auto lanes, std::integer_sequence<int, K...>) SEGEXT_LAMBDA_INLINE {
      Best best[sizeof...(K)];
      const Raw* line = corner + c;
      for (int64_t i = inside.begin; i < inside.end; ++i, line += step_h) {
        const Raw* tap = line;
        for (int64_t t = across.begin; t < across.end; ++t, tap += step_w) {
          const bool first = i == inside.begin && t == across.begin;
          (..., best[K].take(lanes.load_lanes(tap + K * kN, 0, 1), i * w_.kernel_w + t, first, t + 1));
        }
        (..., best[K].restart());
      }
      if (g_.bits > kMaxByteBits) {
        (..., put_wide(best[K], lanes, out + c + K * kN, rows_.depth - c - K * kN, codes));
      } else {
        (..., put(best[K], lanes, out + c + K * kN, rows_.depth - c - K * kN, codes));
      }
    };
    int64_t c = 0;
    for (; c + kTogether * kN <= rows_.depth; c += kTogether * kN) {
      window(c, AllLanes{}, std::make_integer_sequence<int, kTogether>{});
    }
    for_each_block<Raw>({c, rows_.depth}, [&](int64_t from, auto lanes) SEGEXT_LAMBDA_INLINE {
      window(from, lanes, std::integer_sequence<int, 0>{});
    });
  }

  // Stores a vector of pooled elements; `left` elements remain in the row, these included.
  template <class Lanes>
  static SEGEXT_INLINE void put(const Best& best, Lanes lanes, Raw* out, int64_t left, CodeWriter& codes) {
    narrow_codes<Raw>(codes.tail(), best.code);
    codes.commit(left < kN ? left : kN);
    lanes.store_lanes(out, best.value, 0, 1);
  }

  // The same for codes of more than a byte.
  template <class Lanes>
  static SEGEXT_INLINE void put_wide(const Best& best, Lanes lanes, Raw* out, int64_t left, CodeWriter& codes) {
    for (int lane = 0; lane < smaller(left, kN); ++lane) codes.put(static_cast<uint32_t>(best.code[lane]));
    lanes.store_lanes(out, best.value, 0, 1);
  }

  // Any window in either format, one element at a time.
  void scalars(const Raw* plane, int64_t top, Range inside, Range columns, Raw* out, CodeWriter& codes) const {
    for (int64_t j = columns.begin; j < columns.end; ++j) {
      const int64_t left = j * w_.stride_w - w_.padding_w;
      const Range across = taps_inside(left, w_.kernel_w, w_.dilation_w, g_.width);
      for (int64_t c = 0; c < rows_.depth; ++c) {
        ScalarBest<E, kRelu> best;
        for (int64_t i = inside.begin; i < inside.end; ++i) {
          const Raw* line = plane + (top + i * w_.dilation_h) * rows_.row;
          for (int64_t t = across.begin; t < across.end; ++t) {
            best.take(line[(left + t * w_.dilation_w) * rows_.depth + c], i * w_.kernel_w + t);
          }
        }
        out[j * rows_.depth + c] = best.value;
        codes.put(best.code);
      }
    }
  }

  const MaxPool2dParams& p_;
  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const Range interior_;
  const bool has_many_taps_;  // see many_taps
  const bool vectorises_;
  const bool packs_;       // see packs_pixels
  const bool tiles_;       // see tiles_map
  const bool merges_;      // see merges_rows_read
  const bool prefetches_;  // see has_long_pixels
  Phases<Raw> phases_;
  TapRows<Raw> taps_;
};

}  // namespace

void max_pool2d(const MaxPool2dParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  const int64_t rows = Rows(g).planes * g.pooled_height;
  const int64_t group = rows_per_code_byte(g);
  const int64_t groups = ceil_div(rows, group);
  const auto run = [&](auto&& pool) {
    while (begin < end) {
      const int64_t sample = begin / groups, first = begin % groups;
      const int64_t last = end - sample * groups < groups ? end - sample * groups : groups;
      pool.run(sample, first * group, last * group < rows ? last * group : rows);
      begin += last - first;
    }
  };
  with_element(params.type, [&](auto element) {
    using E = decltype(element);
    if (params.relu) {
      run(Pool<E, true>(params));
    } else {
      run(Pool<E, false>(params));
    }
  });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
