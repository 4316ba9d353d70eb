// Unpooling and 3x3 convolution, forward: every pooled value is multiplied by its nine weights, and each product is
// added to the output that it contributes to.
//
// A cell (a 2x2 window) contributes to a patch of 4x4 output pixels. Each of its values, one per channel, contributes
// to the 3x3 pixels of the patch that start at the value's pixel. A kernel call adds to one part of a panel of outputs
// over a block of channels, whose weights (36 KiB for a panel in float32) stay in cache. Channels are sorted by code,
// so that the inner loops do not branch on the code: comparing 64 codes at once gives a bit mask of the channels with a
// code.
//
// With 32 vector registers, two neighbouring cells A and B are processed together. Their patch of 4x6 pixels stays in
// registers, and each weight is loaded once for both:
//
//     a a # # b b      a: only A contributes       A value of A, say with    . x x x . .
//     a a # # b b      b: only B contributes       code 1 (top right),       . x x x . .
//     a a # # b b      #: both contribute          contributes to x:         . x x x . .
//     a a # # b b                                                            . . . . . .
//
// With fewer registers, cells are processed one by one, and the nine sums that a code contributes to stay in registers
// for all channels with this code.
#include <type_traits>

#include "channel_order.h"
#include "panel_kernels.h"
#include "panel_rows.h"
#include "pooled_cells.h"
#include "unpool_bands.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

#if defined(__AVX512BW__)
inline constexpr int kCells = 2;
#else
inline constexpr int kCells = 1;
#endif
inline constexpr int kPatch = 2 * kCells + 2;                   // columns of a patch
inline constexpr int64_t kBlock = ChannelOrder<kCells>::kMost;  // channels of a kernel call
inline constexpr int64_t kAhead = 4;                            // channels by which prefetching is ahead of packing

// The sums of one part of a panel (as many outputs as a vector holds) in some consecutive rows of output pixels. Row 0,
// column 0 is the pixel to which a value of the first cell with code 0 contributes through tap (0, 0).
template <class Sum>
struct Sums {
  Sum* data;
  int64_t pitch;  // elements from one row to the next
};

template <class Sum>
class CellKernel {
  static constexpr int kN = kLanes<Sum>;

 public:
  // Adds what kCells neighbouring cells contribute to the patch at `sums`. `order` lists the channels, sorted by code.
  static SEGEXT_INLINE void add(const Sum* const (&values)[kCells], const ChannelOrder<kCells>& order,
                                const Sum* weights, Sums<Sum> sums) {
    if constexpr (kCells == 2) {
      Vec<Sum> patch[4][kPatch];
      for_patch([&](auto row, auto column) SEGEXT_LAMBDA_INLINE {
        patch[row()][column()] = load(sums.data + row() * sums.pitch + column() * kN);
      });
      Operands next(values, weights, order.begin());
      for_keys([&](auto key) SEGEXT_LAMBDA_INLINE {
        for (int left = order.count(key()); left != 0; --left) {
          feed<key() % 4, key() / 4>(next, patch);
          next.advance();
        }
      });
      for_patch([&](auto row, auto column) SEGEXT_LAMBDA_INLINE {
        store(sums.data + row() * sums.pitch + column() * kN, patch[row()][column()]);
      });
    } else {
      const uint8_t* channels = order.begin();
      for (int key = 0; key < 4; ++key) {
        const uint8_t* end = channels + order.count(key);
        add_code(values[0], channels, end, weights, sums.data + code_row(key) * sums.pitch + code_column(key) * kN,
                 sums.pitch);
        channels = end;
      }
    }
  }

 private:
  // A channel's values in both cells, and the address of its weights. They are loaded before the branch on whether the
  // channel is the first of its key. The processor mispredicts that branch about once per key; the loads are then
  // already under way while it recovers.
  class Operands {
   public:
    SEGEXT_INLINE Operands(const Sum* const (&values)[kCells], const Sum* weights, const uint8_t* channel)
        : values_(values), weights_(weights), channel_(channel) {
      load_channel();
    }

    SEGEXT_INLINE void advance() {
      ++channel_;
      load_channel();
      asm("" : "+v"(first), "+v"(second), "+r"(taps));  // load here, not at the first use
    }

    Vec<Sum> first, second;
    const Sum* taps;

   private:
    SEGEXT_INLINE void load_channel() {
      first = broadcast(values_[0][*channel_]);
      second = broadcast(values_[kCells - 1][*channel_]);
      taps = weights_ + *channel_ * (kPanelTaps * kPanel);
    }

    const Sum* const (&values_)[kCells];
    const Sum* weights_;
    const uint8_t* channel_;
  };

  template <class F, int... K>
  static SEGEXT_INLINE void for_each(F&& f, std::integer_sequence<int, K...>) {
    (f(std::integral_constant<int, K>{}), ...);
  }

  template <class F>
  static SEGEXT_INLINE void for_keys(F&& f) {
    for_each(f, std::make_integer_sequence<int, 16>{});
  }

  template <class F>
  static SEGEXT_INLINE void for_patch(F&& f) {
    for_each(
        [&](auto k) SEGEXT_LAMBDA_INLINE {
          f(std::integral_constant<int, k() / kPatch>{}, std::integral_constant<int, k() % kPatch>{});
        },
        std::make_integer_sequence<int, 4 * kPatch>{});
  }

  template <int kFirst, int kSecond>
  static SEGEXT_INLINE void feed(const Operands& channel, Vec<Sum> (&patch)[4][kPatch]) {
    for_each(
        [&](auto tap) SEGEXT_LAMBDA_INLINE {
          constexpr int i = tap() / 3, j = tap() % 3;
          Vec<Sum> weight = load(channel.taps + tap() * kPanel);
          asm("" : "+v"(weight));  // else loaded twice, as a memory operand of each product
          patch[(kFirst >> 1) + i][(kFirst & 1) + j] += channel.first * weight;
          patch[(kSecond >> 1) + i][2 + (kSecond & 1) + j] += channel.second * weight;
        },
        std::make_integer_sequence<int, kPanelTaps>{});
  }

  // Adds the channels [channel, end) of one cell, all of the same code, to the 3x3 sums that start at `sums`.
  static SEGEXT_INLINE void add_code(const Sum* values, const uint8_t* channel, const uint8_t* end, const Sum* weights,
                                     Sum* sums, int64_t pitch) {
    if (channel == end) return;
    Vec<Sum> nine[kPanelTaps];
#pragma GCC unroll 9
    for (int tap = 0; tap < kPanelTaps; ++tap) nine[tap] = load(sums + tap / 3 * pitch + tap % 3 * kN);
    for (; channel != end; ++channel) {
      const Vec<Sum> value = broadcast(values[*channel]);
      const Sum* taps = weights + *channel * (kPanelTaps * kPanel);
#pragma GCC unroll 9
      for (int tap = 0; tap < kPanelTaps; ++tap) nine[tap] += value * load(taps + tap * kPanel);
    }
#pragma GCC unroll 9
    for (int tap = 0; tap < kPanelTaps; ++tap) store(sums + tap / 3 * pitch + tap % 3 * kN, nine[tap]);
  }
};

template <class E>
class UnpoolConvBands {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;
  static constexpr int64_t kParts = kPanelParts<Sum>;

 public:
  explicit UnpoolConvBands(const UnpoolConv2dParams& params)
      : p_(params),
        g_(params.geometry),
        bands_(g_),
        cells_(g_.pool, params.input, params.codes),
        writer_(params.output, g_.outputs, g_.output_height, g_.output_width, g_.pool.channels_last),
        steps_(ceil_div(g_.pool.pooled_width, kCells)),
        pitch_(larger(steps_ * 2 * kCells + 2, g_.output_width + g_.padding_w) * kN),
        plane_((2 * bands_.rows + 2) * pitch_) {
    none_values_.assign(kBlock);
    none_codes_.assign(kBlock);
  }

  // Computes units [begin, end). A unit is one band of one sample for one group of panels; bands vary fastest.
  void run(int64_t begin, int64_t end) {
    int64_t next = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t band = unit % bands_.count, sample = unit / bands_.count % g_.pool.samples;
      take_group(unit / bands_.count / g_.pool.samples);
      if (unit != next || band == 0) start(sample, band);
      add_rows(sample, band * bands_.rows, bands_.rows,
               [&](int64_t part, Sum* sums) { write(sample, band, part, sums); });
      next = unit + 1;
    }
  }

 private:
  // A buffer of zeros: where cells are processed in pairs, it stands for the missing last cell of a row of odd length.
  template <class T>
  struct Zeros {
    Buffer<T> buffer;
    void assign(int64_t count) { std::memset(buffer.reserve(count), 0, count * sizeof(T)); }
    const T* get() { return buffer.data(); }
  };

  // Makes a group's panels of weights ready: packs them unless the caller gave them.
  void take_group(int64_t group) {
    if (group == group_) return;
    group_ = group;
    first_panel_ = group * UnpoolBands::kGroup;
    panels_ = smaller(UnpoolBands::kGroup, bands_.panels - first_panel_);
    const int64_t panel_weights = g_.pool.channels * kPanelTaps * kPanel;
    if (p_.panels != nullptr) {
      weights_ = static_cast<const Sum*>(p_.panels) + first_panel_ * panel_weights;
      return;
    }
    Sum* packed = packed_.reserve(panels_ * panel_weights);
    for (int64_t c = 0; c < g_.pool.channels; ++c) {
      for (int64_t panel = 0; panel < panels_; ++panel) {
        if (c + kAhead < g_.pool.channels) {
          PanelKernels<E>(p_.weight, g_.outputs, c + kAhead, first_panel_ + panel).prefetch();
        }
        PanelKernels<E>(p_.weight, g_.outputs, c, first_panel_ + panel)
            .pack(packed + panel * panel_weights + c * kPanelTaps * kPanel);
      }
    }
    weights_ = packed;
  }

  // Initialises the sums for a band's first row: the bias, and what the row of cells above the band contributes.
  void start(int64_t sample, int64_t band) {
    sums_.reserve(panels_ * kParts * plane_);
    for (int64_t part = 0; part < panels_ * kParts; ++part) fill(part, 0, 2);
    if (band > 0) add_rows(sample, band * bands_.rows - 1, 1, [](int64_t, Sum*) {});
  }

  // Adds what rows of cells [first, first + rows) contribute, passes each part's finished sums to `finish`, and keeps
  // the last two rows of sums, to which the next rows of cells contribute too.
  template <class F>
  void add_rows(int64_t sample, int64_t first, int64_t rows, F&& finish) {
    const int64_t filled = clamp(g_.pool.pooled_height - first, 0, rows);
    if (filled > 0) load_cells(sample, first, filled);
    for (int64_t part = 0; part < panels_ * kParts; ++part) {
      fill(part, 2, 2 * rows);
      Sum* sums = part_sums(part);
      for (int64_t c = 0; c < g_.pool.channels; c += kBlock) add_block(part, c, filled, sums);
      finish(part, sums);
      std::memmove(sums, sums + 2 * rows * pitch_, 2 * pitch_ * sizeof(Sum));
    }
  }

  // Loads rows of cells and sorts the channels of each block by code, once for all parts.
  void load_cells(int64_t sample, int64_t first, int64_t rows) {
    cells_.load(sample, first, rows);
    ChannelOrder<kCells>* order = orders_.reserve(ceil_div(g_.pool.channels, kBlock) * rows * steps_);
    for (int64_t c = 0; c < g_.pool.channels; c += kBlock) {
      for_cells(rows, [&](const int64_t (&cells)[kCells], int64_t, int64_t) {
        const uint8_t* codes[kCells];
        for (int k = 0; k < kCells; ++k) codes[k] = cells[k] < 0 ? none_codes_.get() : cells_.codes(cells[k]) + c;
        (order++)->sort(codes, smaller(kBlock, g_.pool.channels - c));
      });
    }
  }

  void add_block(int64_t part, int64_t channel, int64_t rows, Sum* sums) {
    const Sum* weights =
        weights_ + (part / kParts * g_.pool.channels + channel) * kPanelTaps * kPanel + part % kParts * kN;
    const ChannelOrder<kCells>* order = orders_.data() + channel / kBlock * rows * steps_;
    for_cells(rows, [&](const int64_t (&cells)[kCells], int64_t row, int64_t column) SEGEXT_LAMBDA_INLINE {
      const Sum* values[kCells];
      for (int k = 0; k < kCells; ++k)
        values[k] = cells[k] < 0 ? none_values_.get() : cells_.values(cells[k]) + channel;
      CellKernel<Sum>::add(values, *order++, weights, {sums + 2 * row * pitch_ + 2 * column * kN, pitch_});
    });
  }

  // Calls f(cells, row, column of the first cell) for each kCells neighbouring cells that are processed together. A
  // cell past the end of the row is negative.
  template <class F>
  SEGEXT_INLINE void for_cells(int64_t rows, F&& f) const {
    const int64_t width = g_.pool.pooled_width;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < width; j += kCells) {
        int64_t cells[kCells];
        for (int k = 0; k < kCells; ++k) cells[k] = j + k < width ? i * width + j + k : -1;
        f(cells, i, j);
      }
    }
  }

  Sum* part_sums(int64_t part) { return sums_.data() + part * plane_; }

  // Sets `rows` rows of a part's sums, from `row` on, to the bias.
  void fill(int64_t part, int64_t row, int64_t rows) {
    Sum bias[kN] = {};
    if (p_.bias != nullptr) {
      const int64_t output = first_output(part);
      widen_run<E>(static_cast<const Raw*>(p_.bias) + output, outputs_of(part), bias);
    }
    const Vec<Sum> value = load(bias);
    Sum* at = part_sums(part) + row * pitch_;
    for (int64_t k = 0; k < rows * pitch_; k += kN) store(at + k, value);
  }

  int64_t first_output(int64_t part) const { return smaller(first_panel_ * kPanel + part * kN, g_.outputs); }
  int64_t outputs_of(int64_t part) const { return smaller(kN, g_.outputs - first_output(part)); }

  void write(int64_t sample, int64_t band, int64_t part, const Sum* sums) {
    const int64_t begin = 2 * band * bands_.rows - g_.padding_h;
    for (int64_t y = larger(begin, 0); y < smaller(begin + 2 * bands_.rows, g_.output_height); ++y) {
      writer_.write(sample, first_output(part), y, sums + (y - begin) * pitch_ + g_.padding_w * kN, kN);
    }
  }

  const UnpoolConv2dParams& p_;
  const UnpoolConv& g_;
  const UnpoolBands bands_;
  PooledCells<E> cells_;
  PanelRowWriter<E> writer_;
  const int64_t steps_;          // steps of kCells cells in a row of cells
  const int64_t pitch_, plane_;  // elements of a row of sums, and of all sums of a part
  int64_t group_ = -1, first_panel_ = 0, panels_ = 0;
  const Sum* weights_ = nullptr;  // of the group's panels
  Buffer<Sum> packed_;
  Zeros<Sum> none_values_;
  Zeros<uint8_t> none_codes_;
  Buffer<ChannelOrder<kCells>> orders_;
  Buffer<Sum> sums_;
};

}  // namespace

void unpool_conv2d(const UnpoolConv2dParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { UnpoolConvBands<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
