// Upsampling without mixing channels, and label maps of scores that are upsampled this way. An output row is the sum of
// a few products of spread input rows (upsampling.h) and weights. All of these are contiguous and in cache, so writing
// the output is the bottleneck. Kernels twice as high and wide as their strides, such as bilinear ones, are processed
// by cells (cell_rows.h), all others by rows.
#include "../depthwise_conv_transpose2d.h"

#include "cell_rows.h"
#include "map_rows.h"
#include "score_rows.h"

namespace segext::SEGEXT_CPU_CAPABILITY {
namespace {

// The sums of one output row, of any number of terms, computed vector by vector. kTerms is as in add_terms.
template <int kTerms, class Sum>
class TermSums {
 public:
  // `element` is the first element of the row, and `place` is its position in a pattern of weights.
  template <class Weights>
  SEGEXT_INLINE TermSums(const Weights& weights, const Term<Sum>* terms, int count, int64_t element, int64_t place)
      : terms_(terms),
        count_(count),
        bias_(weights.bias(0)),
        length_(weights.length()),
        element_(element),
        place_(place) {}

  SEGEXT_INLINE void next(Vec<Sum>* sum) {
    *sum = add_terms<kTerms>(load(bias_ + place_), terms_, count_, element_, place_);
    element_ += kLanes<Sum>;
    place_ += kLanes<Sum>;
    if (place_ >= length_) place_ -= length_;
  }

 private:
  const Term<Sum>* terms_;
  const int count_;
  const Sum* bias_;
  const int64_t length_;
  int64_t element_, place_;
};

// Upsampling by any kernel, one output row at a time.
template <class E>
class AnyRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  AnyRows(const Upsampling& g, const Spread& spread)
      : g_(g), spread_(spread), inputs_(g, spread, 1), weights_(g, spread, 1) {}

  void pack(const Raw* weight, const Raw* bias, int64_t channel) { weights_.pack(0, weight, bias, channel); }

  // Writes row y of `map` and returns the next row to write. `input` is a plane whose pixels have `depth` elements.
  int64_t write(const Raw* input, int64_t depth, int64_t y, int64_t, const MapRows<E>& map) {
    Term<Sum>* terms = terms_.reserve(smaller(inputs_.kept(), g_.kernel_h) * spread_.taps_w);
    int count = 0;
    for_each_input_row(g_, y, [&](int64_t h, int64_t i) {
      const Sum* row = inputs_.row(0, h, input + h * g_.width * depth, depth);
      for (int64_t m = spread_.taps_w - 1; m >= 0; --m) {
        terms[count++] = {row + (spread_.taps_w - 1 - m) * spread_.period, weights_.taps(0, i, m), weights_.present(m)};
      }
    });
    with_terms(count, weights_.lacks_taps(), [&](auto known) SEGEXT_LAMBDA_INLINE {
      map.template write<1>(
          y, TermSums<known(), Sum>(weights_, terms, count, spread_.offset, spread_.offset % weights_.length()));
    });
    return y + 1;
  }

 private:
  const Upsampling& g_;
  const Spread& spread_;
  SpreadRows<E> inputs_;
  PhaseWeights<E> weights_;
  Buffer<Term<Sum>> terms_;
};

// Writes the output rows [begin, end), counted over all planes. A plane is one channel in NCHW, and a sample with all
// its channels in channels_last.
template <class E, template <class> class RowsOf>
void upsample(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  using Raw = typename E::Raw;
  const UpsamplingOperands& operands = params.operands;
  const Upsampling& g = operands.geometry;
  const Spread spread(g, g.channels_last ? g.channels : 1);
  const int64_t depth = g.channels_last ? input_channels(g) : 1;  // elements of an input pixel
  RowsOf<E> rows(g, spread);
  int64_t packed = -1;  // the channel whose weights are packed
  for (int64_t row = begin; row < end;) {
    const int64_t plane = row / g.output_height, channel = g.channels_last ? 0 : plane % g.channels;
    if (packed != channel) {
      packed = channel;
      rows.pack(static_cast<const Raw*>(operands.weight), static_cast<const Raw*>(operands.bias), channel);
    }
    const int64_t input_plane = g.channels_last ? plane : plane / g.multiplier;
    const Raw* input = static_cast<const Raw*>(operands.input) + input_plane * g.height * g.width * depth;
    const MapRows<E> map(params, spread.depth, plane);
    const int64_t first = plane * g.output_height, last = smaller(g.output_height, end - first);
    int64_t y = row - first;
    while (y < last) y = rows.write(input, depth, y, last, map);
    row = first + last;
  }
}

// Computes label maps. Scores are compared in registers and never stored.
template <class E>
class LabelRows {
  using Raw = typename E::Raw;
  using Sum = SumOf<E>;

 public:
  explicit LabelRows(const DepthwiseArgmaxParams& params)
      : p_(params), g_(params.scores.geometry), scores_(params.scores) {}

  // Writes rows [begin, end) of the label maps, counted over all samples.
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
    if (best != nullptr) narrow_run<E>(best, g_.output_width, static_cast<Raw*>(p_.best) + first);
  }

  const DepthwiseArgmaxParams& p_;
  const Upsampling& g_;
  ScoreRows<E> scores_;
  Buffer<Sum> best_;
};

}  // namespace

void depthwise_conv_transpose2d(const DepthwiseConvTranspose2dParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.operands.type, [&](auto element) {
    using E = decltype(element);
    if (CellRows<E>::suits(params.operands.geometry)) {
      upsample<E, CellRows>(params, begin, end);
    } else {
      upsample<E, AnyRows>(params, begin, end);
    }
  });
}

void depthwise_argmax(const DepthwiseArgmaxParams& params, int64_t begin, int64_t end) {
  with_floating_element(params.scores.type,
                        [&](auto element) { LabelRows<decltype(element)>(params).run(begin, end); });
}

}  // namespace segext::SEGEXT_CPU_CAPABILITY
