// Computes output rows of all channels at once, a vector of columns at a time. Labels and losses are made from these
// vectors, so that scores are never stored, whatever the memory format of the input.
#pragma once

#include "upsampling.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

template <class E>
class ScoreRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  explicit ScoreRows(const UpsamplingOperands& operands)
      : operands_(operands),
        g_(operands.geometry),
        spread_(g_, 1),
        rows_(g_, spread_, g_.channels),
        weights_(g_, spread_, g_.channels) {
    for (int64_t c = 0; c < g_.channels; ++c) {
      weights_.pack(c, static_cast<const Raw*>(operands_.weight), static_cast<const Raw*>(operands_.bias), c);
    }
  }

  const Spread& spread() const { return spread_; }
  const PhaseWeights<E>& weights() const { return weights_; }
  SpreadRows<E>& inputs() { return rows_; }

  // Prepares output row y of a sample.
  void seek(int64_t sample, int64_t y) {
    const int64_t inputs = input_channels(g_), pixels = g_.height * g_.width;
    const int64_t plane_step = g_.channels_last ? 1 : pixels, step = g_.channels_last ? inputs : 1;
    const Raw* input = static_cast<const Raw*>(operands_.input) + sample * inputs * pixels;
    per_channel_ = 0;
    for_each_input_row(g_, y, [&](int64_t, int64_t) { per_channel_ += static_cast<int>(spread_.taps_w); });
    terms_ = buffer_.reserve(per_channel_ * g_.channels);
    Term<Sum>* next = terms_;
    for (int64_t c = 0; c < g_.channels; ++c) {
      const Raw* plane = input + c / g_.multiplier * plane_step;
      for_each_input_row(g_, y, [&](int64_t h, int64_t i) {
        const Sum* spread = rows_.row(c, h, plane + h * g_.width * step, step);
        for (int64_t m = spread_.taps_w - 1; m >= 0; --m) {
          *next++ = {spread + (spread_.taps_w - 1 - m) * spread_.period, weights_.taps(c, i, m), weights_.present(m)};
        }
      });
    }
  }

  // Calls f(x, score) for every vector of the row: score(c) computes the scores of channel c in the columns from x on.
  // Lanes past the end of the row are unspecified.
  template <class F>
  void for_each_vector(F&& f) const {
    with_terms(per_channel_, weights_.lacks_taps(), [&](auto known) {
      int64_t place = spread_.offset % weights_.length();
      for (int64_t x = 0; x < g_.output_width; x += kLanes<Sum>) {
        f(x, [&](int64_t c) SEGEXT_LAMBDA_INLINE {
          const Vec<Sum> bias = load(weights_.bias(c) + place);
          return add_terms<known()>(bias, terms_ + c * per_channel_, per_channel_, spread_.offset + x, place);
        });
        place += kLanes<Sum>;
        if (place >= weights_.length()) place -= weights_.length();
      }
    });
  }

 private:
  const UpsamplingOperands& operands_;
  const Upsampling& g_;
  const Spread spread_;
  SpreadRows<E> rows_;
  PhaseWeights<E> weights_;
  Buffer<Term<Sum>> buffer_;
  Term<Sum>* terms_ = nullptr;
  int per_channel_ = 0;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
