// Max-pooling with switches: vectors of pooled columns (NCHW) or of channels (channels_last), scalars at the borders.
//
// The pool is bound by memory: every input element is loaded once from cache-resident rows, every output and code is
// written once. In NCHW a vector of pooled columns needs its taps from strided pixels, which are loaded whole and
// deinterleaved in registers; in channels_last a tap is a plain vector of channels.
#include "../max_pool2d.h"

#include "codes.h"
#include "element.h"
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

  // `first`: nothing was taken before. A constant in unrolled loops.
  SEGEXT_INLINE void take(Vec<Raw> v, int64_t tap, bool first) {
    auto later = E::rank(v, tap);
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

// As above for one element.
template <class E, bool kRelu>
struct ScalarBest {
  typename E::Raw value = E::kLowest;
  typename E::Rank rank{};
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
  static constexpr int kN = kLanes<Raw>;

 public:
  explicit Pool(const MaxPool2dParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        interior_(interior_columns(params.geometry)),
        vectorises_(g_.bits <= kMaxByteBits && w_.kernel_h * w_.kernel_w <= E::kMaxVectorTaps &&
                    (g_.channels_last || has_strided_path(g_))) {}

  // Pooled rows [begin, end) of one sample; row `begin` starts on a byte of the codes.
  void run(int64_t sample, int64_t begin, int64_t end) const {
    CodeWriter codes(p_.codes + sample * g_.sample_bytes, begin * rows_.pooled_row, g_.bits);
    const Raw* input = static_cast<const Raw*>(p_.input) + sample * rows_.planes * g_.height * rows_.row;
    Raw* output = static_cast<Raw*>(p_.output) + sample * rows_.planes * g_.pooled_height * rows_.pooled_row;
    const Raw* plane = input + begin / g_.pooled_height * g_.height * rows_.row;
    int64_t oh = begin % g_.pooled_height - 1;
    for (int64_t r = begin; r < end; ++r) {
      if (++oh == g_.pooled_height) {
        oh = 0;
        plane += g_.height * rows_.row;
      }
      Raw* out = output + r * rows_.pooled_row;
      const int64_t top = oh * w_.stride_h - w_.padding_h;
      const Range inside = taps_inside(top, w_.kernel_h, w_.dilation_h, g_.height);
      if constexpr (E::kMaxVectorTaps > 0) {
        if (vectorises_) {
          vectors(plane, top, inside, out, codes);
          continue;
        }
      }
      scalars(plane, top, inside, {0, g_.pooled_width}, out, codes);
    }
  }

 private:
  void vectors(const Raw* plane, int64_t top, Range inside, Raw* out, CodeWriter& codes) const {
    if (g_.channels_last) {
      for_each_pixel(g_, plane, top, inside, [&](auto kernel, int64_t j, const Raw* corner, Range rows, Range across) {
        pixel<kernel()>(corner, rows, across, out + j * rows_.depth, codes);
      });
      return;
    }
    scalars(plane, top, inside, {0, interior_.begin}, out, codes);
    with_strided_window(w_, inside,
                        [&](auto stride, auto kernel) { columns<stride(), kernel()>(plane, top, inside, out, codes); });
    scalars(plane, top, inside, {interior_.end, g_.pooled_width}, out, codes);
  }

  // The interior of an NCHW row, a vector of pooled columns at a time. Kernel, unless it is kAnyKernel, is the height
  // and the width of the window, all of whose rows are inside.
  template <int Stride, int Kernel>
  SEGEXT_INLINE void columns(const Raw* plane, int64_t top, Range inside, Raw* out, CodeWriter& codes) const {
    const int64_t begin = Kernel ? 0 : inside.begin, end = Kernel ? Kernel : inside.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w, step = (Kernel ? 1 : w_.dilation_h) * rows_.row;
    const Raw* corner = plane + (top + inside.begin * w_.dilation_h) * rows_.row - w_.padding_w;
    for_each_block<Raw>(interior_, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      Best best;
      const Raw* line = corner + j * Stride;
      prefetch_run<Stride>(corner, w_.stride_h, j);
#pragma GCC unroll 3
      for (int64_t i = begin; i < end; ++i, line += step) {
        for_each_tap<Stride, Kernel>(line, w_, lanes, [&](int64_t t, Vec<Raw> v) SEGEXT_LAMBDA_INLINE {
          best.take(v, i * kernel_w + t, i == begin && t == 0);
        });
      }
      narrow_codes<Raw>(codes.tail(), best.code);
      codes.commit(interior_.end - j < kN ? interior_.end - j : kN);
      lanes.store_lanes(out + j, best.value, 0, 1);
    });
  }

  // All channels of one channels_last pixel. Kernel as above, with all columns inside too.
  template <int Kernel>
  SEGEXT_INLINE void pixel(const Raw* corner, Range inside, Range across, Raw* out, CodeWriter& codes) const {
    const int64_t rows_begin = Kernel ? 0 : inside.begin, rows_end = Kernel ? Kernel : inside.end;
    const int64_t columns_begin = Kernel ? 0 : across.begin, columns_end = Kernel ? Kernel : across.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    const int64_t step_h = w_.dilation_h * rows_.row, step_w = w_.dilation_w * rows_.depth;
    for_each_block<Raw>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
      Best best;
      const Raw* line = corner + c;
#pragma GCC unroll 3
      for (int64_t i = rows_begin; i < rows_end; ++i, line += step_h) {
        const Raw* tap = line;
#pragma GCC unroll 3
        for (int64_t t = columns_begin; t < columns_end; ++t, tap += step_w) {
          best.take(lanes.load_lanes(tap, 0, 1), i * kernel_w + t, i == rows_begin && t == columns_begin);
        }
      }
      lanes.store_lanes(out + c, best.value, 0, 1);
      narrow_codes<Raw>(codes.tail(), best.code);
      codes.commit(rows_.depth - c < kN ? rows_.depth - c : kN);
    });
  }

  // Any window, one element at a time, in both formats.
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
  const bool vectorises_;
};

}  // namespace

void max_pool2d(const MaxPool2dParams& params, int64_t begin, int64_t end) {
  const PoolGeometry& g = params.geometry;
  const int64_t rows = Rows(g).planes * g.pooled_height;
  const int64_t group = rows_per_code_byte(g);
  const int64_t groups = (rows + group - 1) / group;
  const auto run = [&](auto pool) {
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
