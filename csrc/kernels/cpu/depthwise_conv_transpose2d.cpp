// Upsampling without mixing channels, an output row at a time: a row is a sum of a few products of spread input rows
// and repeated weights, all of them runs in cache, so that what limits it is writing the output.
#include "../depthwise_conv_transpose2d.h"

#include "score_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

template <class F>
SEGEXT_INLINE void with_flag(bool flag, F&& f) {
  if (flag) return f(std::true_type{});
  f(std::false_type{});
}

// The sums of a row, a vector after the other. kTerms as in add_terms. With kRepeats a vector is as long as a pattern:
// all see the same weights, which stay in registers.
template <int kTerms, bool kRepeats, class Sum>
class TermSums {
 public:
  template <class Weights>
  TermSums(const Weights& weights, const Term<Sum>* terms, int count, int64_t element, int64_t place)
      : terms_(terms),
        count_(count),
        bias_(weights.bias(0)),
        length_(weights.length()),
        element_(element),
        place_(place) {
    if constexpr (kRepeats) {
      held_bias_ = load(bias_ + place_);
#pragma GCC unroll 4
      for (int k = 0; k < kTerms; ++k) {
        inputs_[k] = terms[k].input;
        held_[k] = load(terms[k].weight + place_);
      }
    }
  }

  SEGEXT_INLINE Vec<Sum> next() {
    Vec<Sum> sum;
    if constexpr (kRepeats) {
      sum = held_bias_;
#pragma GCC unroll 4
      for (int k = 0; k < kTerms; ++k) sum += load(inputs_[k] + element_) * held_[k];
    } else {
      sum = add_terms<kTerms>(load(bias_ + place_), terms_, count_, element_, place_);
      place_ += kLanes<Sum>;
      if (place_ >= length_) place_ -= length_;
    }
    element_ += kLanes<Sum>;
    return sum;
  }

 private:
  const Term<Sum>* terms_;
  int count_;
  const Sum* bias_;
  int64_t length_, element_, place_;
  const Sum* inputs_[kRepeats ? kTerms : 1];
  Vec<Sum> held_bias_, held_[kRepeats ? kTerms : 1];
};

// Rows of planes: of one channel in NCHW, of a sample with all its channels in channels_last.
template <class E>
class DepthwiseRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;
  static constexpr bool kNarrows = !std::is_same_v<Raw, Sum>;

 public:
  explicit DepthwiseRows(const DepthwiseConvTranspose2dParams& params)
      : p_(params),
        g_(params.geometry),
        spread_(g_, g_.channels_last ? g_.channels : 1),
        rows_(g_, spread_, 1),
        weights_(g_, spread_, 1),
        depth_(g_.channels_last ? g_.channels / g_.multiplier : 1),
        place_(spread_.offset % weights_.length()) {}

  // Output rows [begin, end), counted over all planes. Rows are short: what a plane decides is divided out once.
  void run(int64_t begin, int64_t end) {
    const int64_t row_elements = g_.output_width * spread_.depth;
    Raw* out = static_cast<Raw*>(p_.output) + begin * row_elements;
    int64_t plane = begin / g_.output_height, y = begin % g_.output_height;
    const Raw* input = take_plane(plane);
    for (int64_t r = begin; r < end; ++r, ++y, out += row_elements) {
      if (y == g_.output_height) {
        y = 0;
        input = take_plane(++plane);
      }
      row(input, plane, y, out);
    }
  }

 private:
  // Makes the weights of a plane ready; its input.
  const Raw* take_plane(int64_t plane) {
    const int64_t channel = g_.channels_last ? 0 : plane % g_.channels;
    if (packed_ != channel) {
      packed_ = channel;
      weights_.pack(0, static_cast<const Raw*>(p_.weight), static_cast<const Raw*>(p_.bias), channel);
    }
    const int64_t input_plane = g_.channels_last ? plane : plane / g_.multiplier;
    return static_cast<const Raw*>(p_.input) + input_plane * g_.height * g_.width * depth_;
  }

  void row(const Raw* input, int64_t plane, int64_t y, Raw* out) {
    Term<Sum>* terms = terms_.reserve(rows_.kept() * spread_.taps_w);
    int count = 0;
    for_each_input_row(g_, y, [&](int64_t h, int64_t i) {
      const Sum* spread = rows_.row(0, h, input + h * g_.width * depth_, depth_);
      for (int64_t m = spread_.taps_w - 1; m >= 0; --m) {
        terms[count++] = {spread + (spread_.taps_w - 1 - m) * spread_.period, weights_.taps(0, i, m),
                          weights_.present(m)};
      }
    });
    const int64_t elements = g_.output_width * spread_.depth;
    const Raw* addend = addend_row(plane, y);
    with_terms(count, weights_.lacks_taps(), [&](auto known) {
      with_flag(weights_.length() == kLanes<Sum>, [&](auto repeats) {
        using Sums = TermSums<known(), (known() > 0 && repeats()), Sum>;
        with_flag(addend != nullptr, [&](auto adds) {
          add_up<adds()>(Sums(weights_, terms, count, spread_.offset, place_), addend, elements, out);
        });
      });
    });
  }

  const Raw* addend_row(int64_t plane, int64_t y) const {
    const Addend& a = p_.addend;
    if (a.data == nullptr) return nullptr;
    const int64_t pixel = (plane * a.height + a.origin_h + y) * a.width + a.origin_w;
    return static_cast<const Raw*>(a.data) + pixel * spread_.depth;
  }

  template <bool kAdds, class Sums>
  static void add_up(Sums sums, const Raw* addend, int64_t elements, Raw* out) {
    constexpr int64_t kN = kLanes<Sum>, kStored = kLanes<Raw>;
    const auto next = [&](int64_t k, int64_t left) SEGEXT_LAMBDA_INLINE {
      return kAdds ? sums.next() + widen_up_to<E>(addend + k, left) : sums.next();
    };
    const auto rounded = [&](int64_t k, int64_t left) SEGEXT_LAMBDA_INLINE {
      if constexpr (kNarrows) {
        const Vec<Sum> low = next(k, left), high = next(k + kN, left - kN);
        return narrow(E{}, low, high);
      } else {
        return next(k, left);
      }
    };
    int64_t k = 0;
    for (; k + kStored <= elements; k += kStored) store(out + k, rounded(k, kStored));
    if (k < elements) store_partial(out + k, rounded(k, elements - k), elements - k);
  }

  const DepthwiseConvTranspose2dParams& p_;
  const Upsampling& g_;
  const Spread spread_;
  SpreadRows<E> rows_;
  PhaseWeights<E> weights_;
  const int64_t depth_;  // of the input
  const int64_t place_;  // of an output row's first element in a pattern
  int64_t packed_ = -1;  // the channel whose weights are ready
  Buffer<Term<Sum>> terms_;
};

// Label maps: scores compared in registers.
template <class E>
class LabelRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  explicit LabelRows(const DepthwiseArgmaxParams& params)
      : p_(params), g_(params.scores.geometry), scores_(params.scores) {}

  // Rows [begin, end) of the label maps of all samples.
  void run(int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      scores_.seek(r / g_.output_height, r % g_.output_height);
      label(r * g_.output_width);
    }
  }

 private:
  void label(int64_t first) {
    constexpr int kN = kLanes<Sum>;
    Sum* best = p_.best == nullptr ? nullptr : best_.reserve(g_.output_width);
    scores_.for_each_vector([&](int64_t x, auto score) {
      Vec<Sum> largest = score(0);
      Vec<Int<Sum>> label{};
      for (int64_t c = 1; c < g_.channels; ++c) {
        const Vec<Sum> value = score(c);
        // A NaN beats every number; nothing beats a NaN.
        const auto beats = ((value > largest) | (value != value)) & (largest == largest);
        largest = beats ? value : largest;
        label = beats ? broadcast(static_cast<Int<Sum>>(c)) : label;
      }
      uint8_t bytes[kN + 64];
      narrow_codes<Sum>(bytes, label);
      const int64_t left = smaller(g_.output_width - x, kN);
      std::memcpy(p_.labels + first + x, bytes, left);
      if (best != nullptr) store_partial(best + x, largest, left);
    });
    if (best != nullptr) put(best, static_cast<Raw*>(p_.best) + first);
  }

  void put(const Sum* best, Raw* out) const {
    if constexpr (std::is_same_v<Raw, Sum>) {
      std::memcpy(out, best, g_.output_width * sizeof(Sum));
    } else {
      narrow(E{}, best, g_.output_width, out);
    }
  }

  const DepthwiseArgmaxParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  Buffer<Sum> best_;
};

}  // namespace

void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.type, [&](auto element) { DepthwiseRows<decltype(element)>(params).run(begin, end); });
}

void depthwise_argmax(const DepthwiseArgmaxParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.scores.type,
                        [&](auto element) { LabelRows<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
