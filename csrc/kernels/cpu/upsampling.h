// Building blocks of upsampling without mixing channels: input rows spread to the width of the output, and weights in
// the order in which output columns use them.
//
// With stride s, output column x (counted in the uncropped result, so that `origin` is included) has phase x % s and
// reads input columns x / s, x / s - 1, ...: column x / s - m through tap `phase + m * s`. Spread rows repeat each
// input column s times, so that all output columns find their input at the same distance, and adjacent columns are
// adjacent elements:
//
//   stride 2    input    a   b   c        columns    0  1  2  3  4  5
//               spread   a a b b c c      tap m = 0  a0 a1 b0 b1 c0 c1     weights repeat with the period s
//                                         tap m = 1        a2 a3 b2 b3
//
// A row is spread once and then serves all output rows that read it, about kernel_h of them.
#pragma once

#include "../depthwise_conv_transpose2d.h"
#include "buffer.h"
#include "rows.h"
#include "sums.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

// The most input columns (or rows) that an output column (or row) reads.
SEGEXT_INLINE int64_t taps_per_phase(int64_t kernel, int64_t stride, int64_t dilation) {
  return ceil_div((kernel - 1) * dilation + 1, stride);
}

// Where output columns lie in spread rows. An element is one channel of a column; a column has `depth` of them.
struct Spread {
  int64_t depth;
  int64_t period;   // elements after which weights repeat
  int64_t taps_w;   // input columns that an output column reads, at most
  int64_t first;    // leftmost input column that the leftmost output column reads; negative in the margin
  int64_t columns;  // input columns of a spread row, margins included
  int64_t offset;   // of the first output element within its period

  SEGEXT_INLINE Spread(const Upsampling& g, int64_t depth)
      : depth(depth),
        period(g.stride_w * depth),
        taps_w(taps_per_phase(g.kernel_w, g.stride_w, g.dilation_w)),
        first(g.origin_w / g.stride_w - (taps_w - 1)),
        columns((g.origin_w + g.output_width - 1) / g.stride_w - first + 1),
        offset(g.origin_w % g.stride_w * depth) {}
};

// Spread input rows of several planes, of each the few that were used last.
template <class E>
class SpreadRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  SpreadRows(const Upsampling& g, const Spread& spread, int64_t planes)
      : g_(g), spread_(spread), kept_(taps_per_phase(g.kernel_h, g.stride_h, g.dilation_h)) {
    constexpr int64_t kN = kLanes<Sum>;
    pitch_ = (ceil_div(spread.columns * spread.period, kN) + 2) * kN;
    // Two vectors of slack after the columns, because half types are computed two vectors at a time. The shift aligns
    // what the first output element reads.
    data_ = buffer_.reserve(element_count(planes, kept_, pitch_) + kN) + (kN - spread.offset % kN) % kN;
    held_ = rows_.reserve(planes * kept_);
    for (int64_t k = 0; k < planes * kept_; ++k) held_[k] = nullptr;
  }

  // Rows kept of each plane: the most that an output row reads.
  int64_t kept() const { return kept_; }

  // Returns input row h of plane `plane`, spread. `source` is its first column; columns are `step` elements apart.
  const Sum* row(int64_t plane, int64_t h, const Raw* source, int64_t step) {
    const int64_t slot = plane * kept_ + h - quick_div(h, kept_) * kept_;
    Sum* row = data_ + slot * pitch_;
    if (held_[slot] != source) {
      held_[slot] = source;
      spread(source, step, row);
    }
    return row;
  }

 private:
  void spread(const Raw* source, int64_t step, Sum* row) {
    const int64_t begin = clamp(-spread_.first, 0, spread_.columns);
    const int64_t end = clamp(g_.width - spread_.first, begin, spread_.columns);
    Sum* first = row + begin * spread_.period;
    std::memset(row, 0, (first - row) * sizeof(Sum));
    repeat(source + (spread_.first + begin) * step, end - begin, step, first);
    Sum* last = row + end * spread_.period;
    std::memset(last, 0, (row + pitch_ - last) * sizeof(Sum));
  }

  // Repeats each of `count` columns stride_w times. Stores whole vectors: what they write past a column is overwritten
  // by the next column or lies in slack.
  SEGEXT_INLINE void repeat(const Raw* pixel, int64_t count, int64_t step, Sum* row) {
    if (spread_.depth > 1) {
      const int64_t readable = ceil_div(spread_.depth, kLanes<Sum>) * kLanes<Sum>;
      for (int64_t q = 0; q < count; ++q, pixel += step) {
        // Reads straight from the input, unless vectors might reach past the end of the run.
        if (g_.multiplier == 1 && (count - q) * step >= readable) {
          row = repeat_pixel(row, [&](int64_t c) SEGEXT_LAMBDA_INLINE { return widen_vector<E>(pixel + c); });
        } else {
          const Sum* values = widened(pixel);
          row = repeat_pixel(row, [&](int64_t c) SEGEXT_LAMBDA_INLINE { return load(values + c); });
        }
      }
    } else if (g_.stride_w == 2 && step == 1) {
      for (int64_t q = 0; q < count; q += kLanes<Sum>, row += 2 * kLanes<Sum>) {
        const Vec<Sum> v = widen_up_to<E>(pixel + q, count - q), twice[] = {v, v};
        store(row, interleave<2, 0>(twice, LaneSequence<Sum>{}));
        store(row + kLanes<Sum>, interleave<2, 1>(twice, LaneSequence<Sum>{}));
      }
    } else {
      for (int64_t q = 0; q < count; ++q, pixel += step, row += g_.stride_w) {
        const Vec<Sum> value = broadcast<Sum>(E::widen(*pixel));
        for (int64_t p = 0; p < g_.stride_w; p += kLanes<Sum>) store(row + p, value);
      }
    }
  }

  // Repeats a channels_last pixel; values(c) gives the vector of its channels from c on.
  template <class F>
  SEGEXT_INLINE Sum* repeat_pixel(Sum* row, F&& values) {
    for (int64_t p = 0; p < g_.stride_w; ++p, row += spread_.depth) {
      for (int64_t c = 0; c < spread_.depth; c += kLanes<Sum>) store(row + c, values(c));
    }
    return row;
  }

  // A channels_last pixel, widened and repeated for all output channels.
  const Sum* widened(const Raw* pixel) {
    Sum* values = line_.reserve(spread_.depth);
    for (int64_t c = 0; c < spread_.depth; c += g_.multiplier, ++pixel) {
      for (int64_t k = 0; k < g_.multiplier; ++k) values[c + k] = E::widen(*pixel);
    }
    return values;
  }

  const Upsampling& g_;
  const Spread& spread_;
  const int64_t kept_;
  int64_t pitch_ = 0;
  Sum* data_ = nullptr;
  const Raw** held_ = nullptr;  // the source of each spread row
  Buffer<Sum> buffer_, line_;
  Buffer<const Raw*> rows_;
};

// Weights and bias of each plane's channels, as patterns that repeat, so that a vector can start at any element of a
// period.
template <class E>
class PhaseWeights {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  PhaseWeights(const Upsampling& g, const Spread& spread, int64_t planes)
      : g_(g), spread_(spread), length_(ceil_div(kLanes<Sum>, spread.period) * spread.period) {
    pitch_ = length_ + kLanes<Sum>;
    data_ = buffer_.reserve(element_count(planes, count(), pitch_));
    if (g.kernel_w != spread.taps_w * g.stride_w) mark_present();
  }

  // Elements after which a reader starts the pattern again: a multiple of the period, and at least a vector.
  int64_t length() const { return length_; }

  // Elements from the start of one pattern to the start of the next.
  int64_t pitch() const { return pitch_; }

  const Sum* bias(int64_t plane) const { return data_ + plane * count() * pitch_; }
  const Sum* taps(int64_t plane, int64_t i, int64_t m) const {
    return bias(plane) + (1 + i * spread_.taps_w + m) * pitch_;
  }

  // Mask of the elements where a pattern has tap m: all ones, else zero. Null if every element has every tap, because
  // the width of the kernel is a multiple of the stride.
  const Int<Sum>* present(int64_t m) const { return present_ == nullptr ? nullptr : present_ + m * pitch_; }
  bool lacks_taps() const { return present_ != nullptr; }

  // Packs the weights of the channels [first, first + depth) as those of `plane`.
  void pack(int64_t plane, const Raw* weight, const Raw* bias, int64_t first) {
    const int64_t depth = spread_.depth, taps = g_.kernel_h * g_.kernel_w;
    Sum* patterns = data_ + plane * count() * pitch_;
    std::memset(patterns, 0, count() * pitch_ * sizeof(Sum));
    for (int64_t p = 0; bias != nullptr && p < g_.stride_w; ++p) {
      for (int64_t c = 0; c < depth; ++c) patterns[p * depth + c] = E::widen(bias[first + c]);
    }
    for_each_tap([&](int64_t j, int64_t m, int64_t phase) {
      for (int64_t i = 0; i < g_.kernel_h; ++i) {
        Sum* out = patterns + (1 + i * spread_.taps_w + m) * pitch_ + phase * depth;
        const Raw* tap = weight + first * taps + i * g_.kernel_w + j;
        for (int64_t c = 0; c < depth; ++c) out[c] = E::widen(tap[c * taps]);
      }
    });
    repeat(patterns, count());
  }

 private:
  // Calls f(j, m, phase) for each tap j of a kernel row, which is tap m of that phase.
  template <class F>
  void for_each_tap(F&& f) const {
    for (int64_t j = 0, phase = 0, m = 0; j < g_.kernel_w; ++j) {
      f(j, m, phase);
      for (phase += g_.dilation_w; phase >= g_.stride_w; phase -= g_.stride_w) ++m;
    }
  }

  // Fills each of `count` patterns by repeating its first period.
  template <class T>
  void repeat(T* patterns, int64_t count) const {
    for (int64_t k = 0; k < count; ++k) {
      T* pattern = patterns + k * pitch_;
      for (int64_t e = spread_.period; e < pitch_; ++e) pattern[e] = pattern[e - spread_.period];
    }
  }

  void mark_present() {
    present_ = present_buffer_.reserve(spread_.taps_w * pitch_);
    std::memset(present_, 0, spread_.taps_w * pitch_ * sizeof(Int<Sum>));
    for_each_tap([&](int64_t, int64_t m, int64_t phase) {
      for (int64_t c = 0; c < spread_.depth; ++c) present_[m * pitch_ + phase * spread_.depth + c] = -1;
    });
    repeat(present_, spread_.taps_w);
  }

  // Number of patterns of a plane: one for the bias, then taps_w for each kernel row.
  int64_t count() const { return 1 + g_.kernel_h * spread_.taps_w; }

  const Upsampling& g_;
  const Spread& spread_;
  const int64_t length_;
  int64_t pitch_ = 0;
  Sum* data_ = nullptr;
  Int<Sum>* present_ = nullptr;
  Buffer<Sum> buffer_;
  Buffer<Int<Sum>> present_buffer_;
};

// One term of the sum that makes each output element: element e of `input` times element e, modulo the length of a
// pattern, of `weight`. Elements where `present` is zero lack the term.
template <class Sum>
struct Term {
  const Sum* input;
  const Sum* weight;
  const Int<Sum>* present;
};

// Calls f(h, i) for each input row h that output row y reads, through kernel row i.
template <class F>
SEGEXT_INLINE void for_each_input_row(const Upsampling& g, int64_t y, F&& f) {
  const int64_t at = y + g.origin_h;
  for (int64_t h = smaller(quick_div(at, g.stride_h), g.height - 1); h >= 0; --h) {
    const int64_t offset = at - h * g.stride_h, i = quick_div(offset, g.dilation_h);
    if (i >= g.kernel_h) return;
    if (i * g.dilation_h == offset) f(h, i);
  }
}

// Stands in for the number of terms where some elements lack some of them. A weight of zero would not do for a missing
// term: zero times infinity is not zero.
inline constexpr int kSomeAbsent = -1;

// Adds `count` terms to `sum`, for the vector of elements from `element` on, which starts at `place` in the pattern.
// kTerms is the count if it is known at compile time, else 0 or kSomeAbsent.
template <int kTerms, class Sum>
SEGEXT_INLINE Vec<Sum> add_terms(Vec<Sum> sum, const Term<Sum>* terms, int count, int64_t element, int64_t place) {
  const int n = kTerms > 0 ? kTerms : count;
#pragma GCC unroll 4
  for (int k = 0; k < n; ++k) {
    const Vec<Sum> input = load(terms[k].input + element), weight = load(terms[k].weight + place);
    if constexpr (kTerms == kSomeAbsent) {
      sum += load(terms[k].present + place) != 0 ? input * weight : Vec<Sum>{};
    } else {
      sum += input * weight;
    }
  }
  return sum;
}

// Calls f with the number of terms as a compile-time constant if it is one that bilinear kernels have; otherwise with 0
// or, if some elements lack terms, kSomeAbsent.
template <class F>
SEGEXT_INLINE void with_terms(int count, bool lacks_taps, F&& f) {
  if (lacks_taps) return f(std::integral_constant<int, kSomeAbsent>{});
  if (count == 4) return f(std::integral_constant<int, 4>{});
  if (count == 2) return f(std::integral_constant<int, 2>{});
  f(std::integral_constant<int, 0>{});
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
