// The adjoint of upsampling: gradients of rows of scores, added up for the input rows, weights and bias they came from.
//
// Input gradients are gathered in the frame of spread rows (upsampling.h), where neighbouring columns are neighbouring
// elements and each tap is a constant distance away. An element gets what its column sends to it through every tap;
// when the last output row that sees an input row is done, the elements of a period are that column's gradient:
//
//   stride 2         frame      A A B B C C           A: period of input column a
//                   tap m = 0   0 1 2 3 4 5           the output column that sends through this tap
//                   tap m = 1   2 3 4 5 . .
#pragma once

#include "../depthwise_cross_entropy.h"
#include "score_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {

template <class E>
class ScoreGradients {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr int kN = kLanes<Sum>;

 public:
  ScoreGradients(const UpsamplingGradients& out, ScoreRows<E>& scores)
      : out_(out),
        scores_(scores),
        g_(scores.geometry()),
        spread_(scores.spread()),
        inputs_(g_.channels / g_.multiplier),
        extent_((g_.kernel_h - 1) * g_.dilation_h + 1),
        kept_(taps_per_phase(g_.kernel_h, g_.stride_h, g_.dilation_h)),
        length_(spread_.columns * spread_.period),
        pitch_(length_ + kN),
        margin_((spread_.taps_w - 1) * spread_.period) {
    rows_ = zeros(row_buffer_, g_.channels * (margin_ + pitch_));
    frames_ = zeros(frame_buffer_, inputs_ * kept_ * pitch_);
  }

  // Calls fill(sample, y) for each output row that the input rows [begin, end), counted over all samples, come to see;
  // it sets the row's gradients. The sums of an input row are of the same terms in the same order whatever the range.
  template <class F>
  void run(int64_t begin, int64_t end, F&& fill) {
    while (begin < end) {
      const int64_t sample = begin / g_.height, first = begin % g_.height;
      owned_ = {first, smaller(g_.height, first + end - begin)};
      first_part_ = begin - first;
      clear_parts();
      int64_t y = first == 0 ? 0 : clamp(first * g_.stride_h - g_.origin_h, 0, g_.output_height);
      for (int64_t h = first; h < owned_.end; ++h) {
        for (; y < last_row(h); ++y) {
          scores_.seek(sample, y);
          fill(sample, y);
          add(y);
        }
        finish(sample, h);
      }
      begin += owned_.end - first;
    }
  }

  // The gradients of channel c in the current row, of output column x at [x]. Whole vectors may be stored from any x
  // inside the row on, if lanes beyond it are zero.
  Sum* row(int64_t c) { return rows_ + c * (margin_ + pitch_) + margin_ + spread_.offset; }

 private:
  static Sum* zeros(Buffer<Sum>& buffer, int64_t count) {
    Sum* data = buffer.reserve(count);
    std::memset(data, 0, count * sizeof(Sum));
    return data;
  }

  // One past the last output row that input row h sees, or that lies between its rows and those of the next.
  int64_t last_row(int64_t h) const {
    if (h == g_.height - 1) return g_.output_height;
    return clamp(h * g_.stride_h + larger(extent_, g_.stride_h) - g_.origin_h, 0, g_.output_height);
  }

  // Parts of the input rows owned, in out_.
  Sum* weight_part(int64_t h) const {
    return static_cast<Sum*>(out_.weight) + (first_part_ + h) * g_.channels * g_.kernel_h * g_.kernel_w;
  }
  Sum* bias_part(int64_t h) const { return static_cast<Sum*>(out_.bias) + (first_part_ + h) * g_.channels; }

  void clear_parts() const {
    const auto clear = [&](Sum* begin, Sum* end) { std::memset(begin, 0, (end - begin) * sizeof(Sum)); };
    if (out_.weight != nullptr) clear(weight_part(owned_.begin), weight_part(owned_.end));
    if (out_.bias != nullptr) clear(bias_part(owned_.begin), bias_part(owned_.end));
  }

  bool owns(int64_t h) const { return h >= owned_.begin && h < owned_.end; }
  Sum* frame(int64_t input, int64_t h) const { return frames_ + (input * kept_ + h % kept_) * pitch_; }

  void add(int64_t y) {
    if (out_.input != nullptr) {
      for_each_input_row(g_, y, [&](int64_t h, int64_t i) {
        if (!owns(h)) return;
        for (int64_t c = 0; c < g_.channels; ++c) add_to_input(c, h, i);
      });
    }
    if (out_.weight != nullptr) {
      for (int64_t c = 0; c < g_.channels; ++c) add_to_weight(c, y);
    }
    // Every output row counts once, with the input row it belongs to, whether that sees it or not.
    const int64_t owner = smaller((y + g_.origin_h) / g_.stride_h, g_.height - 1);
    if (out_.bias != nullptr && owns(owner)) {
      for (int64_t c = 0; c < g_.channels; ++c) bias_part(owner)[c] += total(row(c));
    }
  }

  void add_to_input(int64_t c, int64_t h, int64_t i) {
    const PhaseWeights<E>& weights = scores_.weights();
    const int taps = static_cast<int>(spread_.taps_w);
    Term<Sum>* terms = terms_.reserve(taps);
    for (int m = 0; m < taps; ++m) {
      terms[m] = {row(c) - spread_.offset - (taps - 1 - m) * spread_.period, weights.taps(c, i, m), weights.present(m)};
    }
    Sum* frame = this->frame(c / g_.multiplier, h);
    with_terms(taps, weights.lacks_taps(), [&, length = length_, pattern = weights.length()](auto known) {
      int64_t place = 0;
      for (int64_t e = 0; e < length; e += kN) {
        store(frame + e, add_terms<known()>(load(frame + e), terms, taps, e, place));
        place += kN;
        if (place >= pattern) place -= pattern;
      }
    });
  }

  // Products of gradients and input, added up by their place in the pattern of weights, are those of the taps there.
  void add_to_weight(int64_t c, int64_t y) {
    const Sum* gradients = row(c) - spread_.offset;
    const Term<Sum>* terms = scores_.terms(c);
    const int64_t period = scores_.weights().length(), pitch = period + kN, count = scores_.per_channel();
    Sum* products = zeros(products_, count * pitch);
    int64_t place = 0;
    for (int64_t e = 0; e < spread_.offset + g_.output_width; e += kN) {
      const Vec<Sum> gradient = load(gradients + e);
      for (int64_t t = 0; t < count; ++t) {
        Sum* product = products + t * pitch + place;
        store(product, load(product) + gradient * load(terms[t].input + e));
      }
      place += kN;
      if (place >= period) place -= period;
    }
    for_each_input_row(g_, y, [&](int64_t h, int64_t i) {
      if (owns(h)) {
        Sum* part = weight_part(h) + (c * g_.kernel_h + i) * g_.kernel_w;
        for (int64_t j = 0; j < g_.kernel_w; ++j) {
          const int64_t offset = j * g_.dilation_w, m = offset / g_.stride_w;
          const Sum* product = products + (spread_.taps_w - 1 - m) * pitch;
          Sum sum = 0;
          for (int64_t e = offset % g_.stride_w; e < pitch; e += g_.stride_w) sum += product[e];
          part[j] = sum;
        }
      }
      products += spread_.taps_w * pitch;
    });
  }

  Sum total(const Sum* row) const {
    Vec<Sum> sum{};
    for (int64_t x = 0; x < g_.output_width; x += kN) sum += load(row + x);
    Sum total = 0;
    for (int k = 0; k < kN; ++k) total += sum[k];
    return total;
  }

  SEGEXT_INLINE Sum period_sum(const Sum* elements) const {
    if (spread_.period == 2) return elements[0] + elements[1];
    Sum sum = 0;
    for (int64_t p = 0; p < spread_.period; ++p) sum += elements[p];
    return sum;
  }

  // Input row h is complete: its gradients leave, and its place is free for another row.
  void finish(int64_t sample, int64_t h) {
    if (out_.input == nullptr) return;
    const int64_t step = g_.channels_last ? inputs_ : 1;
    Sum* sums = sums_.reserve(g_.width);
    Raw* values = values_.reserve(g_.width);
    for (int64_t c = 0; c < inputs_; ++c) {
      Sum* frame = this->frame(c, h);
      for (int64_t w = 0; w < g_.width; ++w) {
        const int64_t column = w - spread_.first;
        sums[w] = column >= 0 && column < spread_.columns ? period_sum(frame + column * spread_.period) : 0;
      }
      std::memset(frame, 0, pitch_ * sizeof(Sum));
      const int64_t row = g_.channels_last ? (sample * g_.height + h) * g_.width * inputs_ + c
                                           : ((sample * inputs_ + c) * g_.height + h) * g_.width;
      Raw* out = static_cast<Raw*>(out_.input) + row;
      if constexpr (std::is_same_v<Raw, Sum>) {
        std::memcpy(values, sums, g_.width * sizeof(Sum));
      } else {
        narrow(E{}, sums, g_.width, values);
      }
      for (int64_t w = 0; w < g_.width; ++w) out[w * step] = values[w];
    }
  }

  const UpsamplingGradients& out_;
  ScoreRows<E>& scores_;
  const Upsampling& g_;
  const Spread& spread_;
  const int64_t inputs_;  // channels of the input
  const int64_t extent_;  // output rows from the first to the last that an input row sees
  const int64_t kept_;    // input rows that an output row sees at most
  const int64_t length_;  // elements of a frame
  const int64_t pitch_;
  const int64_t margin_;    // zeros before a row of gradients: what taps to the left of the output would send
  Range owned_{};           // input rows whose gradients are wanted
  int64_t first_part_ = 0;  // the part of the sample's first input row
  Sum* rows_ = nullptr;     // gradients of the current output row
  Sum* frames_ = nullptr;
  Buffer<Sum> row_buffer_, frame_buffer_, products_, sums_;
  Buffer<Raw> values_;
  Buffer<Term<Sum>> terms_;
};

}  // namespace segext::SEGEXT_CPU_CAPABILITY
