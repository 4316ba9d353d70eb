// Unpooling and 3x3 convolution, forward: every value is multiplied by its nine weights and added where they reach.
//
// A cell (a 2x2 window) reaches a patch of 4x4 output pixels, of which each of its values, one a channel, feeds the 3x3
// that start at its pixel. A kernel call adds up one panel of outputs over a block of channels whose weights stay in
// the first-level cache. Channels are taken by their code, so that the code need not be looked at: a bit mask of them
// is found by comparing 64 codes at once. With 32 vector registers two neighbouring cells share a patch of 4x6, which
// stays in registers, and each weight that is loaded:
//
//     a a a a . .        one value of cell A, say with code 1 (top right), feeds   . x x x . .
//     a a # # b b                                                                  . x x x . .
//     a a # # b b                                                                  . x x x . .
//     a a a a . .  (and b below it)                                                . . . . . .
//
// With fewer, cells go one by one, and the nine sums of a code are in registers while its channels last.
#include <type_traits>

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
inline constexpr int kPatch = 2 * kCells + 2;  // columns of a patch
inline constexpr int64_t kBlock = 64;          // channels: one bit of a mask each

// One panel, or the part of it that a vector holds, of some consecutive rows of patches. Row 0, column 0 is the pixel
// that tap (0, 0) of the first cell's code 0 feeds.
template <class Sum>
struct Sums {
  Sum* data;
  int64_t pitch;  // of a row
};

template <class Sum>
class CellKernel {
  static constexpr int kN = kLanes<Sum>;

 public:
  // Adds what cells with these values and codes over `count` channels feed to the patch at `sums`.
  static SEGEXT_INLINE void add(const Sum* const (&values)[kCells], const uint8_t* const (&codes)[kCells],
                                int64_t count, const Sum* weights, Sums<Sum> sums) {
    const uint64_t block = ~uint64_t{0} >> (64 - count);
    Bytes keys = load_bytes(codes[0]);
    if constexpr (kCells == 2) keys |= load_bytes(codes[1]) << 2;
    if constexpr (kCells == 2) {
      Vec<Sum> patch[4][kPatch];
      for_patch([&](auto row, auto column) SEGEXT_LAMBDA_INLINE {
        patch[row()][column()] = load(sums.data + row() * sums.pitch + column() * kN);
      });
      for_keys([&](auto key) SEGEXT_LAMBDA_INLINE {
        for (uint64_t left = equal(keys, key()) & block; left != 0; left &= left - 1) {
          const int channel = __builtin_ctzll(left);
          constexpr int kFirst = key() % 4, kSecond = key() / 4;
          feed<kFirst, kSecond>(values, channel, weights, patch);
        }
      });
      for_patch([&](auto row, auto column) SEGEXT_LAMBDA_INLINE {
        store(sums.data + row() * sums.pitch + column() * kN, patch[row()][column()]);
      });
    } else {
      for (int key = 0; key < 4; ++key) {
        add_code(values[0], equal(keys, key) & block, weights,
                 sums.data + code_row(key) * sums.pitch + code_column(key) * kN, sums.pitch);
      }
    }
  }

 private:
  using Bytes = Vec<uint8_t, kBlock>;

  static SEGEXT_INLINE Bytes load_bytes(const uint8_t* codes) {
    Bytes bytes;
    std::memcpy(&bytes, codes, sizeof(bytes));
    return bytes;
  }

  // A bit for each of 64 bytes that is `value`.
  static SEGEXT_INLINE uint64_t equal(const Bytes& bytes, int value) {
#if defined(__AVX512BW__)
    return _mm512_cmpeq_epi8_mask(reinterpret_cast<__m512i>(bytes), _mm512_set1_epi8(static_cast<char>(value)));
#elif defined(__SSE2__)
    uint64_t bits = 0;
    const __m128i wanted = _mm_set1_epi8(static_cast<char>(value));
    for (int k = 0; k < 4; ++k) {
      __m128i part;
      std::memcpy(&part, reinterpret_cast<const char*>(&bytes) + 16 * k, sizeof(part));
      bits |= uint64_t{static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(part, wanted)))} << (16 * k);
    }
    return bits;
#else
    uint64_t bits = 0;
    for (int k = 0; k < kBlock; ++k) bits |= uint64_t{bytes[k] == value} << k;
    return bits;
#endif
  }

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
  static SEGEXT_INLINE void feed(const Sum* const (&values)[kCells], int channel, const Sum* weights,
                                 Vec<Sum> (&patch)[4][kPatch]) {
    const Vec<Sum> first = broadcast(values[0][channel]), second = broadcast(values[1][channel]);
    const Sum* taps = weights + channel * kPanelTaps * kPanel;
    for_each(
        [&](auto tap) SEGEXT_LAMBDA_INLINE {
          constexpr int i = tap() / 3, j = tap() % 3;
          Vec<Sum> weight = load(taps + tap() * kPanel);
          asm("" : "+v"(weight));  // as an operand of both products it would be loaded twice
          patch[(kFirst >> 1) + i][(kFirst & 1) + j] += first * weight;
          patch[(kSecond >> 1) + i][2 + (kSecond & 1) + j] += second * weight;
        },
        std::make_integer_sequence<int, kPanelTaps>{});
  }

  // The channels of one code of one cell, whose pixel's sums start at `sums`.
  static SEGEXT_INLINE void add_code(const Sum* values, uint64_t channels, const Sum* weights, Sum* sums,
                                     int64_t pitch) {
    if (channels == 0) return;
    Vec<Sum> nine[kPanelTaps];
#pragma GCC unroll 9
    for (int tap = 0; tap < kPanelTaps; ++tap) nine[tap] = load(sums + tap / 3 * pitch + tap % 3 * kN);
    for (; channels != 0; channels &= channels - 1) {
      const int channel = __builtin_ctzll(channels);
      const Vec<Sum> value = broadcast(values[channel]);
      const Sum* taps = weights + channel * kPanelTaps * kPanel;
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
        pitch_(larger(ceil_div(g_.pool.pooled_width, kCells) * 2 * kCells + 2, g_.output_width + g_.padding_w) * kN),
        plane_((2 * bands_.rows + 2) * pitch_) {
    none_values_.assign(g_.pool.channels);
    none_codes_.assign(g_.pool.channels + kBlock);
  }

  // Units [begin, end): bands of samples of groups.
  void run(int64_t begin, int64_t end) {
    int64_t next = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t band = unit % bands_.count, sample = unit / bands_.count % g_.pool.samples;
      first_panel_ = unit / bands_.count / g_.pool.samples * UnpoolBands::kGroup;
      panels_ = smaller(UnpoolBands::kGroup, bands_.panels - first_panel_);
      if (unit != next || band == 0) start(sample, band);
      add_rows(sample, band * bands_.rows, bands_.rows,
               [&](int64_t part, Sum* sums) { write(sample, band, part, sums); });
      next = unit + 1;
    }
  }

 private:
  // A buffer of zeros, for the cells that a row of an odd number of them lacks.
  template <class T>
  struct Zeros {
    Buffer<T> buffer;
    void assign(int64_t count) { std::memset(buffer.reserve(count), 0, count * sizeof(T)); }
    const T* get() { return buffer.data(); }
  };

  // Makes the sums ready for a band's first row: what the row of cells above it feeds.
  void start(int64_t sample, int64_t band) {
    sums_.reserve(panels_ * kParts * plane_);
    for (int64_t part = 0; part < panels_ * kParts; ++part) fill(part, 0, 2);
    if (band > 0) add_rows(sample, band * bands_.rows - 1, 1, [](int64_t, Sum*) {});
  }

  // Adds what rows of cells [first, first + rows) feed; hands each part's finished sums to `finish`; and keeps the two
  // rows that the next ones will feed too.
  template <class F>
  void add_rows(int64_t sample, int64_t first, int64_t rows, F&& finish) {
    const int64_t filled = clamp(g_.pool.pooled_height - first, 0, rows);
    if (filled > 0) cells_.load(sample, first, filled);
    for (int64_t part = 0; part < panels_ * kParts; ++part) {
      fill(part, 2, 2 * rows);
      Sum* sums = part_sums(part);
      for (int64_t c = 0; c < g_.pool.channels; c += kBlock) add_block(part, c, filled, sums);
      finish(part, sums);
      std::memmove(sums, sums + 2 * rows * pitch_, 2 * pitch_ * sizeof(Sum));
    }
  }

  void add_block(int64_t part, int64_t channel, int64_t rows, Sum* sums) {
    const int64_t count = smaller(kBlock, g_.pool.channels - channel);
    const int64_t panel = first_panel_ + part / kParts;
    const Sum* weights = static_cast<const Sum*>(p_.panels) +
                         (panel * g_.pool.channels + channel) * kPanelTaps * kPanel + part % kParts * kN;
    const int64_t width = g_.pool.pooled_width;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < width; j += kCells) {
        const Sum* values[kCells];
        const uint8_t* codes[kCells];
        for (int k = 0; k < kCells; ++k) {
          const bool there = j + k < width;
          values[k] = there ? cells_.values(i * width + j + k) + channel : none_values_.get();
          codes[k] = there ? cells_.codes(i * width + j + k) + channel : none_codes_.get();
        }
        CellKernel<Sum>::add(values, codes, count, weights, {sums + 2 * i * pitch_ + 2 * j * kN, pitch_});
      }
    }
  }

  Sum* part_sums(int64_t part) { return sums_.data() + part * plane_; }

  // Sets `rows` rows of a part to the bias.
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
  CellRows<E> cells_;
  PanelRowWriter<E> writer_;
  const int64_t pitch_, plane_;  // elements of a row of sums, and of a part's
  int64_t first_panel_ = 0, panels_ = 0;
  Zeros<Sum> none_values_;
  Zeros<uint8_t> none_codes_;
  Buffer<Sum> sums_;
};

}  // namespace

void unpool_conv2d(const UnpoolConv2dParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { UnpoolConvBands<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
