// Unpooling and 3x3 convolution, backward. A pooled value needs the output's gradient only at the 3x3 output pixels
// that it contributed to. The sum of this gradient times the weights is the value's own gradient; this gradient times
// the value is what the value adds to the gradient of the weights.
//
// With 32 vector registers, for one channel and one part of a panel of outputs, nine vectors of weights and nine of
// their gradient stay in registers for all values of a tile, so that each vector of the output's gradient is loaded
// once for two products. With fewer registers, each product has a pass of its own.
//
//     grad_weight[tap] += value * grad[pixel + tap]         for all nine taps
//     grad_value       += weight[tap] * grad[pixel + tap]   summed over a panel's outputs after all nine taps
//
// Values are processed in tiles, small enough for the output's gradient that a tile reads in one panel to stay in the
// first-level cache over all channels.
#include "panel_rows.h"
#include "pooled_cells.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

inline constexpr int64_t kTileCells = 64;
inline constexpr int64_t kSweepChannels = 64;

#if defined(__AVX512BW__)
inline constexpr bool kHasRegistersForBoth = true;
#else
inline constexpr bool kHasRegistersForBoth = false;
#endif

// Cells [first, first + count) of a sample in row-major order: some whole rows, or a part of one row.
struct Tile {
  int64_t first, count;
};

template <class E>
class Sweep {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;
  static constexpr int64_t kParts = kPanelParts<Sum>;

 public:
  Sweep(const UnpoolConv2dBackwardParams& params, int64_t first_channel, int64_t channels)
      : p_(params),
        g_(params.geometry),
        pool_(g_.pool),
        first_(first_channel),
        channels_(channels),
        row_step_(grad_panel_columns(g_) * kPanel),
        nowhere_((pool_.height + 2) * row_step_) {
    values_ = value_buffer_.reserve(channels * kTileCells);
    places_ = place_buffer_.reserve(channels * kTileCells);
    codes_ = code_buffer_.reserve(channels * kTileCells);
    grads_ = grad_buffer_.reserve(channels * kTileCells);
    vectors_ = vector_buffer_.reserve((kTileCells + kN) * kN);
    transposed_ = transposed_buffer_.reserve(channels * kTileCells);
  }

  void run() {
    const int64_t width = pool_.pooled_width, height = pool_.pooled_height;
    if (width > kTileCells) {
      for (int64_t i = 0; i < height; ++i) {
        for (int64_t j = 0; j < width; j += kTileCells) run({i * width + j, smaller(kTileCells, width - j)});
      }
    } else {
      const int64_t rows = kTileCells / width;
      for (int64_t i = 0; i < height; i += rows) run({i * width, smaller(rows, height - i) * width});
    }
  }

 private:
  void run(Tile tile) {
    if (pool_.channels_last) {
      load_pixels(tile);
    } else {
      load_planes(tile);
    }
    find_places(tile);
    std::memset(grads_, 0, channels_ * kTileCells * sizeof(Sum));
    const int64_t plane = grad_panel_rows(g_) * row_step_;
    for (int64_t part = 0; part < panels_of(g_.outputs) * kParts; ++part) {
      const int64_t panel = part / kParts, lane = part % kParts * kN;
      const Sum* grad = static_cast<const Sum*>(p_.grad_panels) + panel * plane + lane;
      for (int64_t c = 0; c < channels_; ++c) {
        const int64_t at = (panel * pool_.channels + first_ + c) * kPanelTaps * kPanel + lane;
        sweep(at, grad, c * kTileCells, tile.count);
      }
    }
    if (p_.grad_input != nullptr) write(tile);
  }

  void sweep(int64_t weights, const Sum* grad, int64_t at, int64_t count) {
    const Sum* weight = static_cast<const Sum*>(p_.panels) + weights;
    Sum* grad_weight = static_cast<Sum*>(p_.grad_weight_panels) + weights;
    const bool for_input = p_.grad_input != nullptr, for_weight = p_.grad_weight_panels != nullptr;
    if (kHasRegistersForBoth && for_input && for_weight) {
      pass<true, true>(weight, grad_weight, grad, at, count);
    } else {
      if (for_input) pass<true, false>(weight, nullptr, grad, at, count);
      if (for_weight) pass<false, true>(nullptr, grad_weight, grad, at, count);
    }
    if (for_input) add_lanes(grads_ + at, count);
  }

  template <bool kInput, bool kWeight>
  void pass(const Sum* weight, Sum* grad_weight, const Sum* grad, int64_t at, int64_t count) {
    Vec<Sum> weights[kPanelTaps], grads[kPanelTaps];
#pragma GCC unroll 9
    for (int tap = 0; tap < kPanelTaps; ++tap) {
      if constexpr (kInput) weights[tap] = load(weight + tap * kPanel);
      if constexpr (kWeight) grads[tap] = load(grad_weight + tap * kPanel);
    }
    const Sum* values = values_ + at;
    const int64_t* places = places_ + at;
    for (int64_t k = 0; k < count; ++k) {
      const Sum* pixel = grad + places[k];
      const Vec<Sum> value = broadcast(values[k]);
      Vec<Sum> even{}, odd{};  // two sums: half as long a chain of dependent additions
#pragma GCC unroll 9
      for (int tap = 0; tap < kPanelTaps; ++tap) {
        const Vec<Sum> g = load(pixel + tap / 3 * row_step_ + tap % 3 * kPanel);
        if constexpr (kWeight) grads[tap] += value * g;
        if constexpr (kInput) (tap % 2 ? odd : even) += weights[tap] * g;
      }
      if constexpr (kInput) store(vectors_ + k * kN, even + odd);
    }
    if constexpr (kWeight) {
#pragma GCC unroll 9
      for (int tap = 0; tap < kPanelTaps; ++tap) store(grad_weight + tap * kPanel, grads[tap]);
    }
  }

  // Adds to each of `count` sums all lanes of its vector in `vectors_`.
  void add_lanes(Sum* sums, int64_t count) {
    for (int64_t k = 0; k < count; k += kN) {
      Vec<Sum> square[kN];
#pragma GCC unroll 16
      for (int lane = 0; lane < kN; ++lane) square[lane] = load(vectors_ + (k + lane) * kN);
      store(sums + k, load(sums + k) + sum_lanes(square, LaneSequence<Sum>{}));
    }
  }

  // The vector whose lane k is the sum of the lanes of square[k]. Works like a transposition, except that each round
  // adds the two rows that it makes from a pair, which leaves half as many rows to the next round.
  template <int... K>
  static SEGEXT_INLINE Vec<Sum> sum_lanes(Vec<Sum> (&square)[kN], std::integer_sequence<int, K...>) {
#pragma GCC unroll 6
    for (int rows = kN / 2; rows >= 1; rows /= 2) {
#pragma GCC unroll 16
      for (int k = 0; k < rows; ++k) {
        const Vec<Sum> a = square[k], b = square[k + rows];
        square[k] = __builtin_shufflevector(a, b, (K / 2 + K % 2 * kN)...) +
                    __builtin_shufflevector(a, b, (kN / 2 + K / 2 + K % 2 * kN)...);
      }
    }
    return square[0];
  }

  int64_t sample_elements() const { return p_.sample * pooled_elements(pool_); }
  const uint8_t* sample_codes() const { return p_.codes + p_.sample * pool_.sample_bytes; }

  void load_planes(Tile tile) {
    const int64_t plane = pool_.pooled_height * pool_.pooled_width;
    const Raw* input = static_cast<const Raw*>(p_.input) + sample_elements();
    for (int64_t c = 0; c < channels_; ++c) {
      const int64_t at = (first_ + c) * plane + tile.first;
      widen_run<E>(input + at, tile.count, values_ + c * kTileCells);
      std::memcpy(codes_ + c * kTileCells, unpack_codes(pool_, sample_codes(), at, tile.count, run_), tile.count);
    }
  }

  void load_pixels(Tile tile) {
    const Raw* input = static_cast<const Raw*>(p_.input) + sample_elements();
    uint8_t* codes = pixel_codes_.reserve(channels_ * kTileCells);
    for (int64_t k = 0; k < tile.count; ++k) {
      const int64_t at = (tile.first + k) * pool_.channels + first_;
      widen_run<E>(input + at, channels_, transposed_ + k * channels_);
      std::memcpy(codes + k * channels_, unpack_codes(pool_, sample_codes(), at, channels_, run_), channels_);
    }
    transpose<kN>(transposed_, channels_, tile.count, channels_, values_, kTileCells);
    transpose<16>(codes, channels_, tile.count, channels_, codes_, kTileCells);
  }

  // Finds where in a panel of the gradient the 3x3 pixels of each value start.
  void find_places(Tile tile) {
    int64_t cells[kTileCells];
    const int64_t width = pool_.pooled_width;
    for (int64_t k = 0; k < tile.count; ++k) {
      const int64_t i = (tile.first + k) / width, j = (tile.first + k) % width;
      cells[k] = 2 * i * row_step_ + 2 * j * kPanel;
    }
    for (int64_t c = 0; c < channels_; ++c) {
      const uint8_t* codes = codes_ + c * kTileCells;
      int64_t* places = places_ + c * kTileCells;
      for (int64_t k = 0; k < tile.count; ++k) {
        places[k] = cells[k] + code_row(codes[k]) * row_step_ + code_column(codes[k]) * kPanel;
      }
    }
    if (cuts_windows(pool_)) drop_outside(tile);
  }

  // Zeroes the values whose codes name no pixel of the map, and points them to rows of zeros in the panels.
  void drop_outside(Tile tile) {
    for (int64_t k = 0; k < tile.count; ++k) {
      const int64_t rows_left = pool_.height - 2 * ((tile.first + k) / pool_.pooled_width);
      const int64_t columns_left = pool_.width - 2 * ((tile.first + k) % pool_.pooled_width);
      if (rows_left >= 2 && columns_left >= 2) continue;
      for (int64_t at = k; at < channels_ * kTileCells; at += kTileCells) {
        if (code_row(codes_[at]) < rows_left && code_column(codes_[at]) < columns_left) continue;
        values_[at] = 0;
        places_[at] = nowhere_;
      }
    }
  }

  void write(Tile tile) {
    Raw* out = static_cast<Raw*>(p_.grad_input) + sample_elements();
    if (!pool_.channels_last) {
      const int64_t plane = pool_.pooled_height * pool_.pooled_width;
      for (int64_t c = 0; c < channels_; ++c) {
        narrow_run<E>(grads_ + c * kTileCells, tile.count, out + (first_ + c) * plane + tile.first);
      }
      return;
    }
    transpose<kN>(grads_, kTileCells, channels_, tile.count, transposed_, channels_);
    for (int64_t k = 0; k < tile.count; ++k) {
      narrow_run<E>(transposed_ + k * channels_, channels_, out + (tile.first + k) * pool_.channels + first_);
    }
  }

  const UnpoolConv2dBackwardParams& p_;
  const UnpoolConv& g_;
  const PoolGeometry& pool_;
  const int64_t first_, channels_;
  const int64_t row_step_, nowhere_;
  // [channels, kTileCells] each, of the current tile.
  Sum *values_, *grads_;
  int64_t* places_;
  uint8_t* codes_;
  Sum* vectors_;     // a vector per cell: gradients still to be summed over lanes
  Sum* transposed_;  // [cells, channels]
  Buffer<Sum> value_buffer_, grad_buffer_, vector_buffer_, transposed_buffer_;
  Buffer<int64_t> place_buffer_;
  Buffer<uint8_t> code_buffer_, pixel_codes_, run_;
};

// Packs rows [begin, end), counted over all panels: row r is row r % rows of panel r / rows.
template <class E>
void pack_rows(const UnpoolConv2dBackwardParams& p, int64_t begin, int64_t end) {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  const UnpoolConv& g = p.geometry;
  const int64_t rows = grad_panel_rows(g), columns = grad_panel_columns(g), plane = g.output_height * g.output_width;
  const Raw* sample = static_cast<const Raw*>(p.grad_output) + p.sample * g.outputs * plane;
  Buffer<Sum> wide;
  for (int64_t r = begin; r < end; ++r) {
    Sum* out = static_cast<Sum*>(p.grad_panels) + r * columns * kPanel;
    std::memset(out, 0, columns * kPanel * sizeof(Sum));
    const int64_t y = r % rows - g.padding_h, output = r / rows * kPanel;
    if (y < 0 || y >= g.output_height) continue;
    const int64_t count = smaller(kPanel, g.outputs - output);
    out += g.padding_w * kPanel;
    if (g.pool.channels_last) {
      const Raw* in = sample + y * g.output_width * g.outputs + output;
      for (int64_t x = 0; x < g.output_width; ++x) widen_run<E>(in + x * g.outputs, count, out + x * kPanel);
    } else {
      const Raw* in = sample + output * plane + y * g.output_width;
      Sum* planes = wide.reserve(kPanel * g.output_width);
      for (int64_t k = 0; k < count; ++k) widen_run<E>(in + k * plane, g.output_width, planes + k * g.output_width);
      transpose<kLanes<Sum>>(planes, g.output_width, count, g.output_width, out, kPanel);
    }
  }
}

}  // namespace

void pack_grad_panels(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { pack_rows<decltype(element)>(params, begin, end); });
}

void unpool_conv2d_backward(const UnpoolConv2dBackwardParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) {
    for (int64_t c = begin; c < end; c += kSweepChannels) {
      Sweep<decltype(element)>(params, c, smaller(kSweepChannels, end - c)).run();
    }
  });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
