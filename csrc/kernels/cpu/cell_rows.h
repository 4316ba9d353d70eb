// Upsampling with kernels twice as high and wide as their strides, such as bilinear ones.
//
// The stride_h output rows of a cell depend on the same two input rows: the cell's own and the previous one. The four
// products of an element take less time than writing it, so the other costs of a row matter: two rows are computed at
// once, to share the loads of their input, and the input rows are looked up once per cell.
#pragma once

#include <numeric>

#include "map_rows.h"
#include "upsampling.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// Weight elements that each vector of an output row reads: the bias and four terms.
template <class Sum>
inline constexpr int64_t kCellVector = 5 * kLanes<Sum>;

// The weights of a plane in the order in which output rows read them. For each row of a cell, every vector of the
// output row has a group of its own:
//
//   | bias | near row: farther column, nearer column | far row: farther column, nearer column |
template <class E>
class CellWeights {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int64_t kN = kLanes<Sum>;

 public:
  CellWeights(const Upsampling& g, const Spread& spread)
      : g_(g),
        spread_(spread),
        vectors_(ceil_div(smaller(common_multiple(spread.period, kN), g.output_width * spread.depth), kN)),
        data_(buffer_.reserve(g.stride_h * row_size())),
        pattern_(pattern_buffer_.reserve(spread.offset + vectors_ * kN + spread.period)) {}

  int64_t row_size() const { return vectors_ * kCellVector<Sum>; }
  bool one_vector() const { return vectors_ == 1; }  // all vectors of a row have the same weights
  const Sum* row(int64_t phase) const { return data_ + phase * row_size(); }

  // Packs the weights of the channels [first, first + depth).
  void pack(const Raw* weight, const Raw* bias, int64_t first) {
    const int64_t taps = g_.kernel_h * g_.kernel_w;
    for (int64_t c = 0; c < spread_.depth; ++c) {
      for (int64_t p = 0; p < g_.stride_w; ++p) {
        pattern_[p * spread_.depth + c] = bias == nullptr ? 0 : E::widen(bias[first + c]);
      }
    }
    repeat_pattern();
    for (int64_t phase = 0; phase < g_.stride_h; ++phase) put_pattern(phase, 0);
    for (int64_t i = 0; i < g_.kernel_h; ++i) {
      for (int64_t m = 0; m < 2; ++m) {
        const Raw* tap = weight + first * taps + i * g_.kernel_w + m * g_.stride_w;
        for (int64_t c = 0; c < spread_.depth; ++c, tap += taps) {
          for (int64_t p = 0; p < g_.stride_w; ++p) pattern_[p * spread_.depth + c] = E::widen(tap[p]);
        }
        repeat_pattern();
        put_pattern(i % g_.stride_h, 1 + 2 * (i / g_.stride_h) + (1 - m));
      }
    }
  }

 private:
  // Repeats the first period of the pattern, up to the last element that is read.
  void repeat_pattern() {
    const int64_t end = spread_.offset + vectors_ * kN;
    for (int64_t e = spread_.period; e < end; e += spread_.period) {
      std::memcpy(pattern_ + e, pattern_, spread_.period * sizeof(Sum));
    }
  }

  void put_pattern(int64_t phase, int64_t number) {
    Sum* out = data_ + phase * row_size() + number * kN;
    for (int64_t v = 0; v < vectors_; ++v) store(out + v * kCellVector<Sum>, load(pattern_ + spread_.offset + v * kN));
  }

  const Upsampling& g_;
  const Spread& spread_;
  const int64_t vectors_;  // vectors after which a row's weights repeat, or all of a shorter row
  Buffer<Sum> buffer_, pattern_buffer_;
  Sum* data_;
  Sum* pattern_;
};

// Computes the sums of kRows rows of a cell from kInputs input rows; each call of next() gives the next vector of every
// row. With kHeld, all vectors have the same weights, which stay in registers.
template <int kInputs, int kRows, bool kHeld, class Sum>
class CellSums {
  static constexpr int64_t kN = kLanes<Sum>;
  static constexpr int kTerms = 2 * kInputs;

 public:
  // `near` and `far` are spread input rows, from the farther column that the first element reads; the nearer column
  // follows `period` elements later. `weights` are those of the first row. `first` is the offset of the first term to
  // use within the weights of each vector.
  SEGEXT_INLINE CellSums(const Sum* near, const Sum* far, int64_t period, const Sum* weights, int64_t row_size,
                         int64_t first)
      : near_(near),
        far_(far),
        period_(period),
        weights_(weights),
        end_(weights + row_size),
        row_size_(row_size),
        first_(first) {
    if constexpr (kHeld) {
      bias_ = load(weights);
#pragma GCC unroll 8
      for (int k = 0; k < kRows * kTerms; ++k) held_[k] = weight_in_memory(k / kTerms, k % kTerms);
    }
  }

  SEGEXT_INLINE void next(Vec<Sum>* sums) {
    Vec<Sum> near0{}, near1{}, far0{}, far1{};
    if constexpr (kInputs > 0) take(near_, near0, near1);
    if constexpr (kInputs > 1) take(far_, far0, far1);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      Vec<Sum> sum = kHeld ? bias_ : load(weights_);
      if constexpr (kInputs > 0) {
        sum += near0 * weight(r, 0);
        sum += near1 * weight(r, 1);
      }
      if constexpr (kInputs > 1) {
        sum += far0 * weight(r, 2);
        sum += far1 * weight(r, 3);
      }
      sums[r] = sum;
    }
    if constexpr (!kHeld) {
      weights_ += kCellVector<Sum>;
      if (weights_ == end_) weights_ = end_ - row_size_;
    }
  }

 private:
  SEGEXT_INLINE void take(const Sum*& input, Vec<Sum>& column, Vec<Sum>& next_column) const {
    column = load(input);
    next_column = load(input + period_);
    hold(column);
    hold(next_column);
    input += kN;
  }

  SEGEXT_INLINE Vec<Sum> weight(int r, int k) const {
    if constexpr (kHeld) {
      return held_[r * kTerms + k];
    } else {
      return weight_in_memory(r, k);
    }
  }
  SEGEXT_INLINE Vec<Sum> weight_in_memory(int r, int k) const {
    return load(weights_ + r * row_size_ + first_ + k * kN);
  }

  const Sum *near_, *far_;
  const int64_t period_;
  const Sum *weights_, *end_;
  const int64_t row_size_, first_;
  Vec<Sum> bias_, held_[kHeld && kTerms > 0 ? kRows * kTerms : 1];
};

// Upsampling with such kernels, a cell of output rows at a time.
template <class E>
class CellRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  static bool suits(const Upsampling& g) {
    return g.kernel_h == 2 * g.stride_h && g.kernel_w == 2 * g.stride_w && g.dilation_h == 1 && g.dilation_w == 1;
  }

  CellRows(const Upsampling& g, const Spread& spread)
      : g_(g), spread_(spread), inputs_(g, spread, 1), weights_(g, spread) {}

  void pack(const Raw* weight, const Raw* bias, int64_t channel) { weights_.pack(weight, bias, channel); }

  // Writes the rows of `map` from y on, up to `end` or the end of y's cell, and returns the first row that it did not
  // write. `input` is a plane whose pixels have `depth` elements.
  int64_t write(const Raw* input, int64_t depth, int64_t y, int64_t end, const MapRows<E>& map) {
    const int64_t at = y + g_.origin_h, cell = quick_div(at, g_.stride_h), phase = at - cell * g_.stride_h;
    const int64_t h = smaller(cell, g_.height - 1), behind = cell - h;
    const auto input_row = [&](int64_t row) {
      return inputs_.row(0, row, input + row * g_.width * depth, depth) + spread_.offset;
    };
    end = smaller(end, y + g_.stride_h - phase);
    if (h < 0 || behind > 1) {
      write_cell<0>(nullptr, nullptr, 0, phase, y, end, map);
    } else if (h == 0 || behind == 1) {
      write_cell<1>(input_row(h), nullptr, behind, phase, y, end, map);
    } else {
      write_cell<2>(input_row(h), input_row(h - 1), 0, phase, y, end, map);
    }
    return end;
  }

 private:
  template <int kInputs>
  SEGEXT_INLINE void write_cell(const Sum* near, const Sum* far, int64_t behind, int64_t phase, int64_t y, int64_t end,
                                const MapRows<E>& map) const {
    if (weights_.one_vector()) {
      write_cell<kInputs, true>(near, far, behind, phase, y, end, map);
    } else {
      write_cell<kInputs, false>(near, far, behind, phase, y, end, map);
    }
  }

  // `behind` is 1 in the cell past the last input row. Its only input is that last row, with the weights of the far
  // row.
  template <int kInputs, bool kHeld>
  SEGEXT_INLINE void write_cell(const Sum* near, const Sum* far, int64_t behind, int64_t phase, int64_t y, int64_t end,
                                const MapRows<E>& map) const {
    const int64_t size = weights_.row_size(), first = (1 + 2 * behind) * kLanes<Sum>;
    const Sum* weights = weights_.row(phase);
    const auto rows = [&](auto count) SEGEXT_LAMBDA_INLINE {
      map.template write<count()>(
          y, CellSums<kInputs, count(), kHeld, Sum>(near, far, spread_.period, weights, size, first));
      y += count();
      weights += count() * size;
    };
    while (y + 2 <= end) rows(std::integral_constant<int, 2>{});
    if (y < end) rows(std::integral_constant<int, 1>{});
  }

  const Upsampling& g_;
  const Spread& spread_;
  SpreadRows<E> inputs_;
  CellWeights<E> weights_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
