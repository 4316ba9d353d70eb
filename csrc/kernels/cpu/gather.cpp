// Gather: every pooled element reads the pixel its switch names, a pooled row at a time.
//
// Reading all pixels of a window and selecting by code costs no more memory traffic than reading the named ones, since
// their cache lines are the same, and it vectorises.
#include "../gather.h"

#include "buffer.h"
#include "codes.h"
#include "rows.h"
#include "strided.h"
#include "values.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// T is an integer as wide as the elements: values are only moved.
template <class T>
class Gather {
 public:
  explicit Gather(const GatherParams& params)
      : p_(params),
        g_(params.geometry),
        w_(params.geometry.window),
        rows_(params.geometry),
        interior_(interior_columns(params.geometry)),
        only_winners_(params.overlap == Overlap::kKeepLast && !windows_are_disjoint(params.geometry.window)) {}

  // Pooled rows [begin, end), counted over all planes of all samples.
  void run(int64_t begin, int64_t end) {
    const int64_t elements = pooled_elements(g_);
    int64_t plane = begin / g_.pooled_height, oh = begin % g_.pooled_height;
    codes_ = p_.codes + plane / rows_.planes * g_.sample_bytes;
    first_ = (plane % rows_.planes * g_.pooled_height + oh) * rows_.pooled_row;
    for (int64_t r = begin; r < end; ++r) {
      const T* map = static_cast<const T*>(p_.map) + plane * g_.height * rows_.row;
      T* out = static_cast<T*>(p_.values) + r * rows_.pooled_row;
      row(map, oh, out);
      if (p_.relu_output != nullptr) mask(r * rows_.pooled_row, out);
      if (++oh == g_.pooled_height) {
        oh = 0;
        ++plane;
      }
      first_ += rows_.pooled_row;
      if (first_ == elements) {
        first_ = 0;
        codes_ += g_.sample_bytes;
      }
    }
  }

 private:
  void mask(int64_t first, T* out) const {
    with_floating_element(p_.type, [&](auto element) {
      using Raw = typename decltype(element)::Raw;
      Raw* values = reinterpret_cast<Raw*>(out);
      mask_by_relu<decltype(element)>(values, static_cast<const Raw*>(p_.relu_output) + first, rows_.pooled_row,
                                      values);
    });
  }

  void row(const T* map, int64_t oh, T* out) {
    const bool strided = !g_.channels_last && has_strided_path(g_);
    if (only_winners_ || !(strided || (g_.channels_last && g_.bits <= kMaxByteBits))) {
      scalars(map, oh, {0, g_.pooled_width}, out);
      return;
    }
    const uint8_t* codes = unpacked_row();
    const int64_t top = oh * w_.stride_h - w_.padding_h;
    const Range inside = taps_inside(top, w_.kernel_h, w_.dilation_h, g_.height);
    if (g_.channels_last) {
      for_each_pixel(g_, map, top, inside, [&](auto kernel, int64_t j, const T* corner, Range rows, Range across) {
        pixel<kernel()>(corner, rows, across, codes + j * rows_.depth, out + j * rows_.depth);
      });
      return;
    }
    scalars(map, oh, {0, interior_.begin}, out);
    with_strided_window(w_, inside,
                        [&](auto stride, auto kernel) { columns<stride(), kernel()>(map, top, inside, codes, out); });
    scalars(map, oh, {interior_.end, g_.pooled_width}, out);
  }

  // The codes of the row at hand, a byte each, unpacked with those of the next few.
  const uint8_t* unpacked_row() {
    if (codes_ != unpacked_sample_ || first_ < unpacked_first_ || first_ + rows_.pooled_row > unpacked_end_) {
      const int64_t wanted = kUnpackedCodes > rows_.pooled_row ? kUnpackedCodes : rows_.pooled_row;
      const int64_t left = pooled_elements(g_) - first_;
      unpacked_sample_ = codes_;
      unpacked_first_ = first_;
      unpacked_end_ = first_ + (wanted < left ? wanted : left);
      unpacked_ = unpack_codes(g_, codes_, first_, unpacked_end_ - first_, buffer_);
    }
    return unpacked_ + (first_ - unpacked_first_);
  }

  // The interior of an NCHW row, a vector of pooled columns at a time. Kernel, unless it is kAnyKernel, is the height
  // and the width of the window, all of whose rows are inside.
  template <int Stride, int Kernel>
  SEGEXT_INLINE void columns(const T* map, int64_t top, Range inside, const uint8_t* codes, T* out) const {
    const int64_t begin = Kernel ? 0 : inside.begin, end = Kernel ? Kernel : inside.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w, step = (Kernel ? 1 : w_.dilation_h) * rows_.row;
    const T* corner = map + (top + inside.begin * w_.dilation_h) * rows_.row - w_.padding_w;
    for_each_block<T>(interior_, [&](int64_t j, auto lanes) SEGEXT_LAMBDA_INLINE {
      const Vec<T> code = widen_codes<T>(codes + j);
      Vec<T> v{};
      const T* line = corner + j * Stride;
      prefetch_run<Stride>(corner, w_.stride_h, j);
#pragma GCC unroll 3
      for (int64_t i = begin; i < end; ++i, line += step) {
        for_each_tap<Stride, Kernel>(line, w_, lanes, [&](int64_t t, Vec<T> pixels) SEGEXT_LAMBDA_INLINE {
          v = code == broadcast(static_cast<T>(i * kernel_w + t)) ? pixels : v;
        });
      }
      lanes.store_lanes(out + j, v, 0, 1);
    });
  }

  // All channels of one channels_last pixel. Kernel as above, with all columns inside too.
  template <int Kernel>
  SEGEXT_INLINE void pixel(const T* corner, Range inside, Range across, const uint8_t* codes, T* out) const {
    const int64_t rows_end = Kernel ? Kernel : inside.end, columns_end = Kernel ? Kernel : across.end;
    const int64_t kernel_w = Kernel ? Kernel : w_.kernel_w;
    const int64_t step_h = w_.dilation_h * rows_.row, step_w = w_.dilation_w * rows_.depth;
    for_each_block<T>({0, rows_.depth}, [&](int64_t c, auto lanes) SEGEXT_LAMBDA_INLINE {
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

  // Any window, one element at a time, in both formats.
  void scalars(const T* map, int64_t oh, Range columns, T* out) const {
    for (int64_t e = columns.begin * rows_.depth; e < columns.end * rows_.depth; ++e) {
      const Pixel at{oh, e / rows_.depth};
      Pixel pixel;
      const bool reads = switch_pixel(g_, at, load_code(codes_, first_ + e, g_.bits), &pixel) &&
                         !(only_winners_ && loses(at, e, pixel));
      out[e] = reads ? map[pixel.row * rows_.row + pixel.column * rows_.depth + e % rows_.depth] : T{0};
    }
  }

  // True if the switch of a later window names the pixel too; `e` is the element's place in its pooled row.
  bool loses(Pixel at, int64_t e, Pixel pixel) const {
    const int64_t reach = (w_.kernel_w - 1) * w_.dilation_w;
    const int64_t leftmost = clamp(ceil_div(pixel.column + w_.padding_w - reach, w_.stride_w), 0, g_.pooled_width);
    for (int64_t oh = at.row; oh < g_.pooled_height; ++oh) {
      const int64_t y = pixel.row + w_.padding_h - oh * w_.stride_h, i = quick_div(y, w_.dilation_h);
      if (y < 0) return false;
      if (i * w_.dilation_h != y || i >= w_.kernel_h) continue;
      for (int64_t ow = oh == at.row ? at.column + 1 : leftmost; ow < g_.pooled_width; ++ow) {
        const int64_t x = pixel.column + w_.padding_w - ow * w_.stride_w, j = quick_div(x, w_.dilation_w);
        if (x < 0) break;
        if (j * w_.dilation_w != x) continue;
        const int64_t element = first_ + (oh - at.row) * rows_.pooled_row + ow * rows_.depth + e % rows_.depth;
        if (load_code(codes_, element, g_.bits) == i * w_.kernel_w + j) return true;
      }
    }
    return false;
  }

  const GatherParams& p_;
  const PoolGeometry& g_;
  const Window& w_;
  const Rows rows_;
  const Range interior_;
  const bool only_winners_;
  const uint8_t* codes_ = nullptr;  // of the sample at hand
  int64_t first_ = 0;               // element of the sample that the row at hand starts with

  // Elements [unpacked_first_, unpacked_end_) of a sample as unpacked_row left them.
  static constexpr int64_t kUnpackedCodes = 2048;
  const uint8_t* unpacked_sample_ = nullptr;
  int64_t unpacked_first_ = 0, unpacked_end_ = 0;
  const uint8_t* unpacked_ = nullptr;
  Buffer<uint8_t> buffer_;
};

}  // namespace

void gather(const GatherParams& params, int64_t begin, int64_t end) {
  switch (element_size(params.type)) {
    case 2:
      return Gather<int16_t>(params).run(begin, end);
    case 4:
      return Gather<int32_t>(params).run(begin, end);
    default:
      return Gather<int64_t>(params).run(begin, end);
  }
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
