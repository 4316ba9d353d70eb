// Transposed convolution by sub-pixel phases: output pixels whose row and column have the same remainders modulo the
// stride use the same taps, so each phase is a plain convolution of stride 1 with its own taps. Sums are therefore
// taken in registers, over all taps and a block of channels, and each output is written once; no products are stored.
//
// A band of input rows is copied to one plane per channel, with margins. A single run over the pixels of a plane, the
// margins at row ends included, then covers all pixels of a phase; a tap only shifts the address that the run starts
// at. A tile is kPixels neighbours in the run by two vectors of outputs. All tiles of a band use the same weights of a
// block of channels: kBlock * kVectors vectors per tap, which stay in the first-level cache if a phase has few taps.
#include "../dense_conv_transpose2d.h"

#include "dense_bands.h"
#include "panel_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

#if defined(__AVX512BW__)
inline constexpr int kPixels = 14;
#else
inline constexpr int kPixels = 6;
#endif
inline constexpr int kVectors = 2;      // vectors of outputs in a tile
inline constexpr int64_t kBlock = 128;  // channels of a block

// A tap of one phase along one axis: kernel element `tap`, which reads the input `back` pixels before the cell.
struct PhaseTap {
  int64_t tap, back;
};

template <class E>
class DenseRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;
  static constexpr int64_t kParts = kPanelParts<Sum>;

 public:
  explicit DenseRows(const DenseConvTranspose2dParams& params)
      : p_(params),
        g_(params.geometry),
        bands_(g_),
        writer_(params.output, g_.outputs, g_.output_height, g_.output_width, g_.channels_last),
        run_(bands_.rows * bands_.columns),
        plane_((bands_.rows + bands_.margin_h) * bands_.columns + bands_.margin_w + kPixels),
        row_(bands_.cells_w * g_.stride_w * kVectors * kN) {
    row_taps_ = tap_buffer_.reserve(g_.kernel_h + g_.kernel_w);
    column_taps_ = row_taps_ + g_.kernel_h;
  }

  // Computes units [begin, end). A unit is one band of one sample for one group of panels; bands vary fastest.
  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t band = unit % bands_.count, sample = unit / bands_.count % g_.samples;
      const int64_t first = unit / bands_.count / g_.samples * DenseBands::kGroup * kParts;
      const int64_t last = smaller(first + DenseBands::kGroup * kParts, bands_.panels * kParts);
      copy_rows(sample, band * bands_.rows);
      for (int64_t part = first; part < last; part += kVectors) {
        for (int64_t a = 0; a < g_.stride_h; ++a) phase_rows(sample, band * bands_.rows, a, part);
      }
    }
  }

 private:
  // Copies the input rows that the band from row `first` on reads to one plane per channel, converted to Sum. Margins
  // are zero.
  void copy_rows(int64_t sample, int64_t first) {
    Sum* planes = planes_.reserve(element_count(g_.channels, plane_));
    std::memset(planes, 0, g_.channels * plane_ * sizeof(Sum));
    const Raw* input = static_cast<const Raw*>(p_.input) + sample * g_.channels * g_.height * g_.width;
    const int64_t begin = larger(first - bands_.margin_h, 0), end = smaller(first + bands_.rows, g_.height);
    for (int64_t h = begin; h < end; ++h) {
      Sum* row = planes + (h - first + bands_.margin_h) * bands_.columns + bands_.margin_w;
      const int64_t width = smaller(g_.width, bands_.cells_w);
      if (g_.channels_last) {
        const Sum* pixels = wide(input + h * g_.width * g_.channels, width * g_.channels);
        transpose<kN>(pixels, g_.channels, width, g_.channels, row, plane_);
      } else {
        for (int64_t c = 0; c < g_.channels; ++c) {
          widen_run<E>(input + (c * g_.height + h) * g_.width, width, row + c * plane_);
        }
      }
    }
  }

  const Sum* wide(const Raw* in, int64_t count) {
    if constexpr (std::is_same_v<Raw, Sum>) {
      return in;
    } else {
      Sum* out = wide_.reserve(count);
      widen_run<E>(in, count, out);
      return out;
    }
  }

  // Computes and writes the output rows of row phase `a` that the band from row `first` on gives, for the kVectors
  // vectors of outputs from `part` on.
  void phase_rows(int64_t sample, int64_t first, int64_t a, int64_t part) {
    Sum* sums = sums_.reserve(bands_.rows * row_ + kVectors * kN * kPixels);
    const int64_t rows = find_taps(g_.kernel_h, g_.stride_h, g_.dilation_h, a, row_taps_);
    for (int64_t b = 0; b < g_.stride_w; ++b) {
      const int64_t columns = find_taps(g_.kernel_w, g_.stride_w, g_.dilation_w, b, column_taps_);
      for (int64_t c = 0; c < g_.channels; c += kBlock) {
        const int64_t count = smaller(kBlock, g_.channels - c);
        for (int64_t q = 0; q < run_; q += kPixels) tile(part, c, count, rows, columns, q, b, sums);
      }
    }
    for (int64_t u = first; u < first + bands_.rows; ++u) {
      const int64_t y = u * g_.stride_h + a - g_.padding_h;
      if (y < 0 || y >= g_.output_height) continue;
      const Sum* row = sums + (u - first) * row_ + g_.padding_w * kVectors * kN;
      for (int k = 0; k < kVectors; ++k) writer_.write(sample, (part + k) * kN, y, row + k * kN, kVectors * kN);
    }
  }

  static int64_t find_taps(int64_t kernel, int64_t stride, int64_t dilation, int64_t phase, PhaseTap* taps) {
    int64_t count = 0;
    for (int64_t tap = 0; tap < kernel; ++tap) {
      if (tap * dilation % stride == phase) taps[count++] = {tap, tap * dilation / stride};
    }
    return count;
  }

  void tile(int64_t part, int64_t channel, int64_t count, int64_t rows, int64_t columns, int64_t q, int64_t b,
            Sum* sums) {
    Vec<Sum> tile[kPixels][kVectors];
    if (channel == 0) {
      const Vec<Sum> first = bias(part), second = bias(part + 1);
#pragma GCC unroll 14
      for (int k = 0; k < kPixels; ++k) tile[k][0] = first, tile[k][1] = second;
    } else {
      for_each_pixel(q, b, sums, [&](int k, Sum* at) SEGEXT_LAMBDA_INLINE {
        tile[k][0] = load(at);
        tile[k][1] = load(at + kN);
      });
    }
    const Sum* input = planes_.data() + channel * plane_ + q + bands_.margin_h * bands_.columns + bands_.margin_w;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t tap = row_taps_[i].tap * g_.kernel_w + column_taps_[j].tap;
        add_tap(input - row_taps_[i].back * bands_.columns - column_taps_[j].back, weights(part, tap, channel),
                weights(part + 1, tap, channel), count, tile);
      }
    }
    for_each_pixel(q, b, sums, [&](int k, Sum* at) SEGEXT_LAMBDA_INLINE {
      store(at, tile[k][0]);
      store(at + kN, tile[k][1]);
    });
  }

  SEGEXT_INLINE void add_tap(const Sum* input, const Sum* first, const Sum* second, int64_t count,
                             Vec<Sum> (&tile)[kPixels][kVectors]) const {
    for (int64_t c = 0; c < count; ++c) {
      const Vec<Sum> one = load(first + c * kPanel);
      const Vec<Sum> two = load(second + c * kPanel);
#pragma GCC unroll 14
      for (int k = 0; k < kPixels; ++k) {
        const Vec<Sum> value = broadcast(input[c * plane_ + k]);
        tile[k][0] += value * one;
        tile[k][1] += value * two;
      }
    }
  }

  // Calls f(k, address of the sums) for each pixel k of the tile that starts at pixel q of the run, for column phase b.
  // Pixels in a margin at a row end are not outputs: their sums go to spare room past all rows.
  template <class F>
  SEGEXT_INLINE void for_each_pixel(int64_t q, int64_t b, Sum* sums, F&& f) const {
    int64_t u = q / bands_.columns, v = q % bands_.columns;
#pragma GCC unroll 14
    for (int k = 0; k < kPixels; ++k) {
      const bool is_output = v < bands_.cells_w && u < bands_.rows;
      f(k, is_output ? sums + u * row_ + (v * g_.stride_w + b) * kVectors * kN
                     : sums + bands_.rows * row_ + k * kVectors * kN);
      if (++v == bands_.columns) v = 0, ++u;
    }
  }

  // A part past the last panel reads the last panel's weights; its sums are never written.
  const Sum* weights(int64_t part, int64_t tap, int64_t channel) const {
    const int64_t taps = g_.kernel_h * g_.kernel_w, panel = smaller(part / kParts, bands_.panels - 1);
    return static_cast<const Sum*>(p_.panels) + ((panel * taps + tap) * g_.channels + channel) * kPanel +
           part % kParts * kN;
  }

  Vec<Sum> bias(int64_t part) const {
    Sum lanes[kN] = {};
    const int64_t first = part * kN;
    if (p_.bias != nullptr && first < g_.outputs) {
      widen_run<E>(static_cast<const Raw*>(p_.bias) + first, smaller(kN, g_.outputs - first), lanes);
    }
    return load(lanes);
  }

  const DenseConvTranspose2dParams& p_;
  const ConvTranspose& g_;
  const DenseBands bands_;
  PanelRowWriter<E> writer_;
  const int64_t run_;    // pixels of a band, margins at row ends included
  const int64_t plane_;  // elements of a channel's plane
  const int64_t row_;    // elements of a row of sums
  PhaseTap *row_taps_, *column_taps_;
  Buffer<PhaseTap> tap_buffer_;
  Buffer<Sum> planes_, sums_, wide_;
};

template <class E>
void pack(const TapPanelParams& p, int64_t begin, int64_t end) {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  Buffer<Sum> wide;
  for (int64_t c = begin; c < end; ++c) {
    const Raw* weight = static_cast<const Raw*>(p.weight) + c * p.outputs * p.taps;
    for (int64_t panel = 0; panel < panels_of(p.outputs); ++panel) {
      const int64_t count = smaller(kPanel, p.outputs - panel * kPanel);
      Sum* kernels = wide.reserve(kPanel * p.taps);
      widen_run<E>(weight + panel * kPanel * p.taps, count * p.taps, kernels);
      std::memset(kernels + count * p.taps, 0, (kPanel - count) * p.taps * sizeof(Sum));
      Sum* out = static_cast<Sum*>(p.panels) + (panel * p.taps * p.channels + c) * kPanel;
      if (p.taps >= kLanes<Sum>) {
        transpose<kLanes<Sum>>(kernels, p.taps, kPanel, p.taps, out, p.channels * kPanel);
      } else {
        transpose<2>(kernels, p.taps, kPanel, p.taps, out, p.channels * kPanel);
      }
    }
  }
}

}  // namespace

void pack_tap_panels(const TapPanelParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { pack<decltype(element)>(params, begin, end); });
}

void dense_conv_transpose2d(const DenseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { DenseRows<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
